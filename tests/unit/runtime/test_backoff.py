"""Waits between attempts: growing, bounded, and random only with jitter."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.backoff import Backoff

WAITS = st.floats(min_value=0.001, max_value=3600.0)
ATTEMPTS = st.integers(min_value=1, max_value=100_000)
JITTERS = st.floats(min_value=0.0, max_value=1.0)


def test_waits_double_from_the_first_up_to_the_limit() -> None:
    backoff = Backoff(first_s=5.0, limit_s=60.0)
    assert [backoff.delay_s(attempt) for attempt in (1, 2, 3, 4, 5, 6, 99)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


@given(first_s=WAITS, limit_s=WAITS, attempt=ATTEMPTS)
def test_without_jitter_a_wait_never_shrinks_and_never_passes_the_limit(
    first_s: float, limit_s: float, attempt: int
) -> None:
    backoff = Backoff(first_s=first_s, limit_s=limit_s)
    assert 0 < backoff.delay_s(attempt) <= backoff.delay_s(attempt + 1) <= limit_s


@given(first_s=WAITS, limit_s=WAITS)
def test_the_limit_is_reached(first_s: float, limit_s: float) -> None:
    assert Backoff(first_s=first_s, limit_s=limit_s).delay_s(10_000) == limit_s


@given(first_s=WAITS, limit_s=WAITS, jitter=JITTERS, attempt=ATTEMPTS)
def test_jitter_shortens_a_wait_by_its_share_at_most(
    first_s: float, limit_s: float, jitter: float, attempt: int
) -> None:
    full_s = Backoff(first_s=first_s, limit_s=limit_s).delay_s(attempt)
    delay_s = Backoff(first_s=first_s, limit_s=limit_s, jitter=jitter).delay_s(attempt)
    assert full_s * (1.0 - jitter) * (1 - 1e-9) <= delay_s <= full_s


def test_jitter_spreads_waits() -> None:
    backoff = Backoff(first_s=8.0, limit_s=60.0, jitter=0.5)
    found = [backoff.delay_s(1) for _ in range(200)]
    assert 4.0 <= min(found) < 5.0
    assert 7.0 < max(found) <= 8.0


@given(seed=st.integers(), jitter=JITTERS)
def test_a_seed_fixes_the_waits(seed: int, jitter: float) -> None:
    backoff = Backoff(first_s=1.0, limit_s=60.0, jitter=jitter)

    def waits() -> list[float]:
        random.seed(seed)
        return [backoff.delay_s(attempt) for attempt in range(1, 9)]

    assert waits() == waits()
