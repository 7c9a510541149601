"""The sequential test on simulated streams: false alarms over many looks, power, exact figures of small cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.promotion.sequential import RISES, Rate, no_rise, rise

STREAMS, LOOKS = 600, 60
ALPHA = 0.05


def rate(events: int, requests: int) -> Rate:
    return Rate(events=int(events), requests=int(requests))


def test_the_evidence_is_the_mean_likelihood_ratio_of_the_conditional_binomial_test() -> None:
    shares = [factor / (factor + 1) for factor in RISES]
    by_hand = np.mean([(share / 0.5) ** 3 * ((1 - share) / 0.5) ** 1 for share in shares])
    assert rise(rate(3, 100), rate(1, 100)).value == pytest.approx(by_hand)


def test_the_evidence_has_expectation_one_where_the_rates_are_equal() -> None:
    binomial = np.array([1, 5, 10, 10, 5, 1]) / 32
    values = [rise(rate(x, 100), rate(5 - x, 100)).value for x in range(6)]
    assert np.dot(binomial, values) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_false_alarms_over_all_looks_of_concurrent_streams_stay_below_alpha(share: float) -> None:
    """A canary: both arms see the same traffic at the same time, and one looks after every hundred requests."""
    draw = np.random.default_rng(1)
    alarms = 0
    for _ in range(STREAMS):
        here = np.cumsum(draw.binomial(100, share, LOOKS))
        there = 100 * np.arange(1, LOOKS + 1) - here
        events = np.cumsum(draw.poisson(0.02 * np.diff(here, prepend=0)))
        others = np.cumsum(draw.poisson(0.02 * np.diff(there, prepend=0)))
        alarms += any(
            rise(rate(x, n), rate(y, m)).significant(ALPHA)
            for x, n, y, m in zip(events, here, others, there, strict=True)
        )
    assert alarms / STREAMS <= ALPHA


@pytest.mark.parametrize("baseline", [300, 2000, 10_000])
def test_false_alarms_against_a_window_of_the_past_stay_below_alpha(baseline: int) -> None:
    """A watch: the window before the promotion grows backwards with the one after it, until nothing older is left."""
    draw = np.random.default_rng(2)
    alarms = 0
    for _ in range(STREAMS):
        events = np.cumsum(draw.poisson(2.0, LOOKS))
        past = np.cumsum(draw.poisson(2.0, baseline // 100))
        for look in range(LOOKS):
            matched = min(look, len(past) - 1)
            new, old = rate(events[look], 100 * (look + 1)), rate(past[matched], 100 * (matched + 1))
            if rise(new, old).significant(ALPHA):
                alarms += 1
                break
    assert alarms / STREAMS <= ALPHA


@pytest.mark.parametrize(("factor", "least"), [(2.0, 0.8), (3.0, 0.99)])
def test_a_doubled_rate_is_found_within_the_window(factor: float, least: float) -> None:
    draw = np.random.default_rng(3)
    found = 0
    for _ in range(STREAMS):
        events, others = np.cumsum(draw.poisson(2.0 * factor, LOOKS)), np.cumsum(draw.poisson(2.0, LOOKS))
        found += any(
            rise(rate(events[look], 100 * (look + 1)), rate(others[look], 100 * (look + 1))).significant(ALPHA)
            for look in range(LOOKS)
        )
    assert found / STREAMS >= least


def test_an_equal_rate_is_found_harmless_and_a_harmful_one_is_not() -> None:
    draw = np.random.default_rng(4)
    harmless = {1.0: 0, 2.0: 0}
    for factor in harmless:
        for _ in range(STREAMS):
            events, others = np.cumsum(draw.poisson(2.0 * factor, LOOKS)), np.cumsum(draw.poisson(2.0, LOOKS))
            harmless[factor] += any(
                no_rise(rate(events[k], 100 * (k + 1)), rate(others[k], 100 * (k + 1)), harm=2.0).significant(ALPHA)
                for k in range(LOOKS)
            )
    assert harmless[1.0] / STREAMS >= 0.8
    assert harmless[2.0] / STREAMS <= ALPHA


def test_a_tolerated_rise_is_none() -> None:
    new, old = rate(80, 1000), rate(30, 1000)
    assert rise(new, old).significant(0.01)
    assert not rise(new, old, tolerance=3.0).significant(0.01)


@given(
    events=st.integers(0, 10**6),
    others=st.integers(0, 10**6),
    requests=st.integers(0, 10**9),
    more=st.integers(0, 10**9),
)
def test_any_counts_give_a_figure(events: int, others: int, requests: int, more: int) -> None:
    for evidence in (
        rise(rate(events, requests), rate(others, more)),
        no_rise(rate(events, requests), rate(others, more), harm=2.0),
    ):
        assert evidence.value >= 0
        assert 0 <= evidence.p_value <= 1


def test_without_requests_on_one_side_there_is_no_evidence() -> None:
    assert rise(rate(5, 0), rate(0, 100)).p_value == 1
    assert rise(rate(5, 10), rate(0, 0)).p_value == 1
