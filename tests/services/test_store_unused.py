"""Reports that no run used are deleted after a while; whatever a run used, or may use, stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from connectors.messages import EventType
from daemon.records import Answer, ReportState, Split, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Added, Store, unused
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, learn, promote, quarantine, run_to_verdict, waiting_events

OLD = utcnow() - timedelta(days=100)


def age(store: Store, *report_ids: str) -> None:
    """They came long ago, one minute after the other."""
    for minutes, report_id in enumerate(report_ids):
        force(
            store,
            "UPDATE reports SET received_at = :at WHERE id = :id",
            at=(OLD + timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S.%f"),
            id=report_id,
        )


def remove(store: Store, **more: int) -> int:
    return store.unused.remove(before=utcnow() - timedelta(days=90), reason="unused", **more)


def ids(store: Store) -> set[str]:
    return {report.id for report in store.reports.find(limit=999)}


def test_old_quarantined_and_rejected_reports_go_and_young_ones_stay(store: Store) -> None:
    old, young, rejected, queued = (flagged() for _ in range(4))
    add(store, old, young, rejected, queued)
    for one in (old, young, rejected):
        quarantine(store, one.id)
    store.reviews.reject(rejected.id, actor="ann", reason="no")
    age(store, old.id, rejected.id, queued.id)
    assert remove(store) == 2
    assert ids(store) == {young.id, queued.id}
    told = [(event.type, event.subject, event.data["reason"]) for event in waiting_events(store)]
    assert told.count((EventType.REPORT_BURIED, old.id, "unused")) == 1
    assert [subject for _, subject, _ in told].count(rejected.id) == 1, "it was told when it was rejected"
    assert add(store, old) == [Added.STORED]


def test_a_batch_is_bounded(store: Store) -> None:
    messages = [flagged() for _ in range(5)]
    add(store, *messages)
    for one in messages:
        quarantine(store, one.id)
    age(store, *(one.id for one in messages))
    assert [remove(store, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_lesson_goes_only_after_many_runs_passed_it_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused, "PASSED_OVER", 2)
    passed, reviewed, used = (flagged() for _ in range(3))
    learn(store, passed, reviewed, used)
    store.reviews.accept(reviewed.id, actor="ann", reason="good")
    age(store, passed.id, reviewed.id, used.id)
    run = run_to_verdict(store, accepted=False)
    _use(store, run.id, used.id)
    assert remove(store) == 0, "one run passed it over"
    run_to_verdict(store, accepted=False)
    assert remove(store) == 1
    assert not store.reports.find(ReportFilter(search=passed.id))
    assert {reviewed.id, used.id} <= ids(store)


def _use(store: Store, run_id: int, report_id: str) -> None:
    force(
        store,
        "INSERT INTO clusters (id, category, leader_text, split, leader_id) VALUES (77, 'c', 't', :split, :id)",
        split=Split.TRAIN.value,
        id=report_id,
    )
    force(store, "UPDATE reports SET cluster_id = 77 WHERE id = :id", id=report_id)
    force(
        store,
        "INSERT INTO run_items (run_id, report_id, cluster_id, role) VALUES (:run, :id, 77, :split)",
        run=run_id,
        id=report_id,
        split=Split.TRAIN.value,
    )


def test_duplicates_go_when_enough_newer_ones_of_their_sender_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused, "MAX_PARTS", 2)
    first = flagged()
    copies = [flagged(messages=first.messages, response=first.response, reporter=f"r{number}") for number in range(5)]
    for message in (first, *copies):
        add(store, message)
    age(store, first.id, *(one.id for one in copies[:4]))
    standing = next(report.id for report in store.reports.find() if report.state is ReportState.QUEUED)
    assert remove(store) == 3
    assert len(ids(store) - {standing}) == 2
    assert copies[4].id in ids(store)


def test_duplicates_of_a_lesson_that_goes_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unused, "PASSED_OVER", 1)
    first = flagged()
    learn(store, first)
    copy = flagged(messages=first.messages, response=first.response, reporter="other", reason="")
    add(store, copy)
    force(store, "UPDATE reports SET state = 'lesson' WHERE id = :id", id=first.id)
    run_to_verdict(store, accepted=False)
    age(store, first.id, copy.id)
    assert [remove(store) for _ in range(3)] == [1, 1, 0]
    assert not ids(store) & {first.id, copy.id}


def test_answers_of_old_runs_go_unless_their_adapter_can_go_live_again_or_a_report_has_them(store: Store) -> None:
    runs = [promote(store) for _ in range(3)]
    for run in runs:
        [item] = store.runs.items(run.id)
        of_report = Answer(
            run_id=run.id,
            suite="flagged",
            item_id=item.report_id,
            arm="live",
            guided=True,
            text="No.",
            passed=False,
            margin=None,
        )
        probe = replace(of_report, suite="golden", item_id="task-1")
        store.runs.save_answers([of_report, probe, replace(probe, suite="attacks")])

    def suites() -> list[list[str]]:
        return [[answer.suite for answer in store.runs.answers(run.id)] for run in runs]

    everything = ["attacks", "flagged", "golden"]
    first = runs[0]
    assert store.unused.forget_answers(before=utcnow()) == 0, "every adapter has its files"
    store.adapters.files_removed(first.generation, "test")
    assert store.unused.forget_answers(before=OLD) == 0, "it ended later"
    assert store.unused.forget_answers(before=utcnow()) == 2
    assert suites() == [["flagged"], everything, everything]
    assert store.unused.forget_answers(before=utcnow()) == 0
    assert store.runs.verdict(first.id) is not None
