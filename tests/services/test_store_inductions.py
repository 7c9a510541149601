"""Inductions in the store, on both databases: one at a time, and reports and progress in one transaction."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from daemon.errors import IllegalTransitionError, LeaseLostError
from daemon.records import Evidence, Induction, IntentKind, IntentState, Source, Trigger, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Added, Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import force


def start(store: Store) -> Induction:
    run = store.inductions.start(trigger=Trigger.CRON, requested_by="schedule")
    assert run is not None
    return run


def test_one_is_active_and_the_next_goes_on_where_it_ended(store: Store) -> None:
    assert store.inductions.last() is None
    first = start(store)
    assert (first.position, first.asked, first.kept, first.finished_at) == (0, 0, 0, None)
    assert store.inductions.start(trigger=Trigger.MANUAL, requested_by="op") is None
    first, _ = store.inductions.file(first, [], asked=3, position=3, reporter_cap=10)
    store.inductions.finish(first, reason="enough")
    assert store.inductions.active() is None
    second = start(store)
    assert second.id > first.id
    assert (second.position, second.asked) == (3, 0)
    assert store.inductions.active() == second


def test_reports_and_progress_are_stored_together(store: Store) -> None:
    report = flagged()
    run, added = store.inductions.file(start(store), [report, report, flagged()], asked=4, position=4, reporter_cap=10)
    assert added == [Added.STORED, Added.REDELIVERED, Added.STORED]
    assert (run.position, run.asked, run.kept) == (4, 4, 2)
    assert store.reports.get(report.id).source.channel == "induced"


def test_who_is_behind_stores_nothing(store: Store) -> None:
    stale = start(store)
    store.inductions.file(stale, [flagged()], asked=1, position=1, reporter_cap=10)
    late = flagged()
    with pytest.raises(LeaseLostError, match="another daemon"):
        store.inductions.file(stale, [late], asked=1, position=1, reporter_cap=10)
    assert [report.id for report in store.reports.find(ReportFilter(search=late.id))] == []
    last = store.inductions.last()
    assert last is not None
    store.inductions.finish(last, reason="over")
    with pytest.raises(LeaseLostError):
        store.inductions.file(last, [late], asked=1, position=2, reporter_cap=10)


def test_the_database_itself_refuses_a_second_active_run_and_takes_the_wish(store: Store) -> None:
    start(store)
    with pytest.raises(IntegrityError):
        force(
            store,
            "INSERT INTO inductions (trigger, requested_by, position, asked, kept, created_at, updated_at) "
            "VALUES ('cron', 'x', 0, 0, 0, :now, :now)",
            now=utcnow(),
        )
    assert store.intents.request(IntentKind.INDUCE, actor="op", reason="try").kind is IntentKind.INDUCE


def test_a_intent_for_an_induction_ends_with_its_start_and_starts_no_other_one(store: Store) -> None:
    intent = store.intents.request(IntentKind.INDUCE, actor="op", reason="go")
    run = store.inductions.start(trigger=Trigger.MANUAL, requested_by="op", intent_id=intent.id)
    assert run is not None
    ended = store.intents.get(intent.id)
    assert (ended.state, ended.outcome) == (IntentState.DONE, f"started induction {run.id}")
    store.inductions.finish(run, reason="asked every question")
    with pytest.raises(IllegalTransitionError, match="carried out before"):
        store.inductions.start(trigger=Trigger.MANUAL, requested_by="op", intent_id=intent.id)
    assert store.inductions.active() is None


def test_nobody_passes_for_erratad_or_takes_the_id_of_its_report(store: Store) -> None:
    induced = flagged(id="induced-1", reporter="induced")
    posed = flagged(id="induced-1", reporter="induced", response="Another answer.")
    assert store.reports.add([(posed, Source(channel="http", principal="shop"))]) == [Added.STORED]
    [outcome] = store.inductions.file(start(store), [induced], asked=1, position=1, reporter_cap=1)[1]
    assert outcome == Added.STORED, "neither its id nor its place under the cap is taken"
    assert store.reports.sent("shop", "induced-1").evidence is Evidence.CLAIMED
    assert store.reports.sent("induced", "induced-1").flagged.response == induced.response
