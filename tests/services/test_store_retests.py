"""The states that reports get when a run has asked again, and how they lose them."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.messages import EventType
from daemon.records import ReportState, Run, RunItem, RunState, Split, Verdict, utcnow
from daemon.retest import Passes, Retest
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn, start_run, waiting_events

FIXED = (0, 4), (4, 4)
NOT_FIXED = (0, 1), (0, 1)
IMPROVED = (0, 4), (3, 4)
NOT_REPRODUCED = (4, 4), (1, 1)
UNKNOWN = (0, 0), (1, 1)
TELLING = (EventType.REPORT_RESOLVED, EventType.REPORT_IMPROVED, EventType.REPORT_NOT_REPRODUCED)
Counts = tuple[tuple[int, int], tuple[int, int]]


def _retest(run: Run, report_id: str, counts: Counts) -> Retest:
    before, after = (Passes(passed=passed, answers=answers) for passed, answers in counts)
    return Retest.of(run.id, report_id, before, after, answers=4)


def _decide(store: Store, found: dict[str, Counts], *, accepted: bool = True) -> Run:
    """A run that has measured these reports and got its verdict."""
    run = start_run(store)
    assert run is not None
    [lesson] = learn(store, flagged())
    cluster = store.clusters.open(report_id=lesson, category="x", leader_text=lesson, split=Split.TRAIN)
    store.runs.prepared(run.id, [RunItem(run_id=run.id, report_id=lesson, cluster_id=cluster.id, role=Split.TRAIN)])
    store.runs.trained(run.id, path=Path("/adapters") / str(run.generation), sha256="0" * 64)
    verdict = Verdict(
        run_id=run.id,
        generation=run.generation,
        accepted=accepted,
        reasons=("measured",),
        figures={"live_generation": run.base_generation},
        decided_at=utcnow(),
    )
    store.runs.decided(verdict, retests=[_retest(run, *one) for one in found.items()])
    return store.runs.get(run.id)


def _promote(store: Store, found: dict[str, Counts]) -> Run:
    run = _decide(store, found)
    store.adapters.promote(run.generation, expected_live=run.base_generation, actor="op", reason="better")
    return run


def _roll_back(store: Store, target: int = 0) -> None:
    store.adapters.roll_back(target, expected_live=store.adapters.live().generation, actor="op", reason="bad")


def _states(store: Store, report_ids: list[str]) -> list[ReportState]:
    return [store.reports.get(one).state for one in report_ids]


def test_a_promotion_gives_each_report_the_state_that_the_answers_earned(store: Store) -> None:
    ids = learn(store, *(flagged() for _ in range(5)))
    found = dict(zip(ids, (FIXED, NOT_FIXED, IMPROVED, NOT_REPRODUCED, UNKNOWN), strict=True))
    run = _promote(store, found)
    assert _states(store, ids) == [
        ReportState.RESOLVED,
        ReportState.RECURRING,
        ReportState.IMPROVED,
        ReportState.NOT_REPRODUCED,
        ReportState.LESSON,
    ]
    assert store.reports.get(ids[0]).state_reason == "0 of 4 good before, 4 of 4 after"
    assert store.reports.get(ids[3]).resolved_generation == 0
    assert [one.report_id for one in store.retests.of_run(run.id)] == sorted(ids)
    assert [one.counts for one in store.retests.of_report(ids[2])] == ["0 of 4 good before, 3 of 4 after"]


def test_senders_are_told_with_the_counts(store: Store) -> None:
    ids = learn(store, *(flagged() for _ in range(3)))
    _promote(store, dict(zip(ids, (FIXED, IMPROVED, NOT_REPRODUCED), strict=True)))
    told = {event.subject: event for event in waiting_events(store) if event.type in TELLING}
    assert [told[one].data["said"] for one in ids] == [
        "fixed in generation 1: 0 of 4 good before, 4 of 4 after",
        "made less often, but not fixed, in generation 1: 0 of 4 good before, 3 of 4 after",
        "not reproduced: generation 0 did not make the mistake again: 4 of 4 good before, 1 of 1 after",
    ]


def test_a_rejected_candidate_fixes_nothing_but_what_live_does_right_is_put_aside(store: Store) -> None:
    ids = learn(store, *(flagged() for _ in range(3)))
    run = _decide(store, dict(zip(ids, (FIXED, NOT_FIXED, NOT_REPRODUCED), strict=True)), accepted=False)
    assert run.state is RunState.REJECTED
    assert _states(store, ids) == [ReportState.LESSON, ReportState.LESSON, ReportState.NOT_REPRODUCED]


def test_a_verdict_against_a_generation_that_left_puts_nothing_aside(store: Store) -> None:
    [report] = learn(store, flagged())
    _promote(store, {})
    run = start_run(store)
    assert run is not None
    store.runs.prepared(run.id, [])
    store.runs.trained(run.id, path=Path("/adapters/2"), sha256="0" * 64)
    _roll_back(store)
    verdict = Verdict(
        run_id=run.id,
        generation=run.generation,
        accepted=False,
        reasons=("measured",),
        figures={"live_generation": 1},
        decided_at=utcnow(),
    )
    store.runs.decided(verdict, retests=[_retest(run, report, NOT_REPRODUCED)])
    assert _states(store, [report]) == [ReportState.LESSON]


def test_what_was_not_reproduced_is_not_trained_on(store: Store) -> None:
    ids = learn(store, *(flagged() for _ in range(2)))
    _decide(store, {ids[0]: NOT_REPRODUCED, ids[1]: IMPROVED}, accepted=False)
    found = [report.id for report, _ in store.reports.trainable(limit=10)]
    assert ids[0] not in found
    assert ids[1] in found


def test_a_fixed_report_stays_fixed_where_live_does_it_right(store: Store) -> None:
    [report] = learn(store, flagged())
    _promote(store, {report: FIXED})
    _promote(store, {report: NOT_REPRODUCED})
    assert _states(store, [report]) == [ReportState.RESOLVED]
    assert store.reports.get(report).resolved_generation == 1


def test_after_a_rollback_fixes_are_lost_and_what_was_not_reproduced_is_tried_again(store: Store) -> None:
    ids = learn(store, *(flagged() for _ in range(4)))
    _promote(store, {ids[0]: FIXED, ids[1]: IMPROVED, ids[3]: NOT_REPRODUCED})
    _decide(store, {ids[2]: NOT_REPRODUCED}, accepted=False)
    _roll_back(store)
    assert _states(store, ids) == [
        ReportState.RECURRING,
        ReportState.RECURRING,
        ReportState.LESSON,
        ReportState.NOT_REPRODUCED,
    ]
    assert store.reports.get(ids[2]).state_reason == "generation 1 is no longer live"


def test_what_was_not_reproduced_is_tried_again_when_it_is_reported_again(store: Store) -> None:
    said = flagged()
    [first] = learn(store, said)
    _decide(store, {first: NOT_REPRODUCED}, accepted=False)
    add(store, said.model_copy(update={"id": "again"}))
    assert store.reports.get("again").state is ReportState.DUPLICATE
    assert store.reports.get(first).state is ReportState.LESSON
    assert store.reports.get(first).state_reason == "reported again"
    assert first in [report.id for report, _ in store.reports.trainable(limit=10)]


def test_a_person_may_have_it_tried_again(store: Store) -> None:
    [report] = learn(store, flagged())
    _decide(store, {report: NOT_REPRODUCED}, accepted=False)
    store.reports.requeue(report, actor="ann", reason="seen again today")
    assert _states(store, [report]) == [ReportState.QUEUED]


@pytest.mark.parametrize("counts", [FIXED, NOT_FIXED, IMPROVED, NOT_REPRODUCED])
def test_an_erased_report_keeps_its_state(store: Store, counts: Counts) -> None:
    [report] = learn(store, flagged())
    run = _decide(store, {report: counts})
    store.reports.erase(report, actor="op", reason="asked for")
    store.adapters.promote(run.generation, expected_live=0, actor="op", reason="better")
    assert _states(store, [report]) == [ReportState.ERASED]
