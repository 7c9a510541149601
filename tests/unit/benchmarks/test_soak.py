"""The soak's slopes, bounds and verdicts, its plan of outages, and the launcher of forked trainers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from daemon.store import Store
from tests.benchmarks.soak import outages
from tests.benchmarks.soak.__main__ import is_sound, lost_and_doubled
from tests.benchmarks.soak.growth import (
    BOUNDS,
    CEILINGS,
    FEWEST,
    PER,
    ROWS_ELSEWHERE,
    SLACK,
    WARM,
    Slope,
    Verdict,
    bound_of,
    fit,
    judged,
    worst,
)
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, promote

NOISE = [3.0, -1.0, 0.0, 1.0, -3.0]


def grown(figure: str, values: Sequence[float]) -> list[dict[str, float]]:
    """Samples of which only this figure grows, in the second half."""
    quiet = [{**dict.fromkeys(BOUNDS, 50.0), figure: 50.0}] * len(values)
    return [*quiet, *({**quiet[0], figure: value} for value in values)]


def test_a_slope_is_in_units_per_hundred_runs_and_its_interval_covers_the_noise() -> None:
    exact = fit([7.0 + 0.25 * run for run in range(40)])
    assert exact.slope == pytest.approx(0.25 * PER)
    assert (exact.low, exact.high) == (pytest.approx(exact.slope), pytest.approx(exact.slope))
    noisy = fit([0.25 * run + noise for run, noise in zip(range(40), itertools.cycle(NOISE), strict=False)])
    assert noisy.low < 0.25 * PER < noisy.high
    assert fit([5.0] * 40).slope == pytest.approx(0)


@pytest.mark.parametrize(("low", "high", "verdict"), [(-1, 2, "kept"), (2.1, 3, "broken"), (1, 3, "open")])
def test_a_bound_is_kept_or_broken_by_the_whole_interval_and_else_open(low: float, high: float, verdict: str) -> None:
    assert Slope(slope=2, low=low, high=high).against(2.0) == verdict


def test_a_leak_breaks_its_bound_and_nothing_else() -> None:
    found = judged(grown("memory_mib", [100 + 0.2 * run for run in range(30)]), reports=6)
    assert {figure for figure, one in found.items() if one["verdict"] != Verdict.KEPT} == {"memory_mib"}
    assert found["memory_mib"]["slope"] == pytest.approx(20)
    assert worst(found) == {"figure": "memory_mib", "share_of_bound": 2.0}
    assert not is_sound(sound() | {"slopes": found})


def test_growth_before_the_second_half_is_none() -> None:
    samples = grown("memory_mib", [90.0] * 30)
    assert all(one["verdict"] == Verdict.KEPT for one in judged(samples, reports=6).values())


def test_growth_right_after_a_restart_is_none() -> None:
    warming = [70.0 - run for run in range(WARM)]
    samples = grown("memory_mib", [60.0] * 20 + warming[::-1] + [75.0] * 15)
    assert judged(samples, reports=6)["memory_mib"]["verdict"] == Verdict.BROKEN
    assert judged(samples, reports=6, restarted=60)["memory_mib"]["verdict"] == Verdict.KEPT


def test_too_few_samples_say_nothing() -> None:
    assert judged(grown("memory_mib", [float(run) for run in range(FEWEST - 1)]), reports=6) == {}
    assert worst({}) is None


def test_rows_may_grow_with_reports_and_runs_and_those_of_other_tables_hardly() -> None:
    assert bound_of("rows.reports", reports=6) == pytest.approx(SLACK * 6 * PER)
    assert bound_of("rows.runs", reports=6) == bound_of("rows.runs", reports=60) == pytest.approx(SLACK * PER)
    assert bound_of("rows.stages", reports=6) == ROWS_ELSEWHERE
    assert bound_of("store_mib", reports=12) == 2 * bound_of("store_mib", reports=6)


@pytest.mark.parametrize("figure", CEILINGS)
def test_what_is_removed_after_a_while_has_a_ceiling_in_place_of_a_slope(figure: str) -> None:
    below = judged(grown(figure, [CEILINGS[figure] * run / 30 for run in range(30)]), reports=6)
    assert below[figure]["verdict"] == Verdict.KEPT
    above = judged(grown(figure, [*([0.0] * 29), 2 * CEILINGS[figure]]), reports=6)
    assert above[figure]["verdict"] == Verdict.BROKEN


def test_the_daemon_is_killed_in_the_first_half_only_and_everything_else_in_both() -> None:
    plan = outages.plan(300)
    halves = [{outage for number, outage in plan.items() if (number < 150) is first} for first in (True, False)]
    assert halves[0] - halves[1] == {outages.daemon}
    assert halves[1] == {outages.broker, outages.model_server, outages.database, outages.trainer}
    assert len(plan) == 300 // outages.EVERY
    assert [one.__name__ for one in outages.plan(3).values()] == ["daemon", "trainer", "database"]


def test_lost_reports_and_doubled_ones_are_counted(sqlite_store: Store) -> None:
    taken, again, missing = flagged(), flagged(), flagged()
    add(sqlite_store, taken, again)
    promote(sqlite_store)
    sent = {taken.id, again.id}
    assert lost_and_doubled(sqlite_store, sent) == {"lost": 0, "doubled": 0}
    assert lost_and_doubled(sqlite_store, {*sent, missing.id}) == {"lost": 1, "doubled": 0}


def sound() -> dict[str, object]:
    return {"slopes": {}, "lost": 0, "doubled": 0, "chats": {"failed": 0}, "exit_code": 0, "ends": {"promoted": 5}}


@pytest.mark.parametrize(
    "wrong",
    [{"lost": 1}, {"doubled": 1}, {"chats": {"failed": 1}}, {"exit_code": 3}, {"ends": {"promoted": 4, "failed": 1}}],
)
def test_a_soak_is_sound_when_nothing_is_lost_doubled_or_failed(wrong: dict[str, object]) -> None:
    assert is_sound(sound())
    assert not is_sound(sound() | wrong)
