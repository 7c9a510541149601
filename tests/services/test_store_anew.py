"""Open reports after a promotion are held, renewed once per generation, and lost by no worker."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daemon.errors import LeaseLostError
from daemon.parts import Analysis
from daemon.records import ReportState, utcnow
from daemon.store import Store
from daemon.store.anew import Renewal
from daemon.store.rows import history, lesson_texts
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, learn, mark, promote


def trained(store: Store) -> str:
    """A report that a promoted run was trained on."""
    return store.runs.items(promote(store).id)[0].report_id


def claim(store: Store, owner: str = "w", live: int = 1) -> list[Renewal]:
    return store.anew.claim(owner=owner, limit=9, lease_s=60, live=live)


def renewed(held: Renewal, text: str, generation: int = 1) -> Renewal:
    own = Analysis(text=text, analyst="self:base", template="v1", at=utcnow(), generation=generation)
    past = [replace(one, current=False) for one in history(held.lesson)]
    lesson = replace(held.lesson, analysis=text, generation=generation, analyses=(*past, own))
    return replace(held, lesson=lesson)


def test_a_report_of_a_past_run_is_due_once_per_generation_and_keeps_its_state(store: Store) -> None:
    report_id = trained(store)
    [never_used] = learn(store, flagged())
    assert claim(store, live=0) == []
    [held] = claim(store)
    assert (held.report.id, held.lesson.analysis) == (report_id, "It is wrong.")
    assert claim(store, "other") == []
    made = renewed(held, "It names the wrong town.").lesson
    store.anew.complete(held, made)
    assert store.reports.get(report_id).state is ReportState.LESSON
    stored = store.reports.lesson(report_id)
    assert stored == made
    assert [(one.text, one.generation, one.current) for one in history(made)] == [
        ("It is wrong.", None, False),
        ("It names the wrong town.", 1, True),
    ]
    assert claim(store) == []
    assert [one.report.id for one in claim(store, live=2)] == [report_id]
    assert store.reports.lesson(never_used) is not None


@pytest.mark.parametrize("closed", ["resolved", "reviewed", "queued"])
def test_what_is_fixed_reviewed_or_analysed_anyway_is_not_due(store: Store, closed: str) -> None:
    report_id = trained(store)
    if closed == "resolved":
        mark(store, [report_id], ReportState.RESOLVED, generation=1)
    elif closed == "reviewed":
        store.reviews.accept(report_id, actor="op", reason="right")
    else:
        message = store.reports.get(report_id).flagged
        add(store, flagged(messages=message.messages, response=message.response, reason="Another reason entirely."))
    assert claim(store) == []


def test_a_persons_correction_during_the_work_stays(store: Store) -> None:
    report_id = trained(store)
    [held] = claim(store)
    store.reviews.correct(report_id, analysis="A person's words.", correction=None, actor="op", reason="better")
    store.anew.complete(held, renewed(held, "Too late.").lesson)
    lesson = store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.analysis == "A person's words."
    assert [(one.text, one.analyst, one.current) for one in lesson.analyses] == [
        ("It is wrong.", "self", False),
        ("A person's words.", "reviewer:op", True),
    ]


def test_a_worker_whose_lease_is_over_changes_nothing_and_another_takes_the_report(store: Store) -> None:
    report_id = trained(store)
    [held] = claim(store)
    force(store, "UPDATE reports SET lease_until = :past", past=utcnow() - timedelta(seconds=1))
    [second] = claim(store, "other")
    with pytest.raises(LeaseLostError):
        store.anew.complete(held, renewed(held, "Late.").lesson)
    store.anew.complete(second, renewed(second, "In time.").lesson)
    lesson = store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.analysis == "In time."


def test_a_report_that_is_put_back_waits_until_its_time(store: Store) -> None:
    trained(store)
    [held] = claim(store)
    store.anew.put_back(held, at=utcnow() + timedelta(seconds=60))
    assert claim(store) == []
    force(store, "UPDATE reports SET lease_until = :past", past=utcnow() - timedelta(seconds=1))
    assert len(claim(store)) == 1


def test_a_report_erased_meanwhile_gets_no_lesson_and_all_its_analyses_are_known_as_its_text(store: Store) -> None:
    report_id = trained(store)
    [held] = claim(store)
    made = renewed(held, "It names the wrong town.").lesson
    assert lesson_texts(made) == ("It names the wrong town.", "It is wrong.", "It names the wrong town.")
    store.reports.erase(report_id, actor="op", reason="asked")
    with pytest.raises(LeaseLostError):
        store.anew.complete(held, made)
    assert store.reports.lesson(report_id) is None


def test_the_analyses_that_a_run_found_are_told_by_time(store: Store) -> None:
    report_id = trained(store)
    before = utcnow()
    [held] = claim(store)
    store.anew.complete(held, renewed(held, "It names the wrong town.").lesson)
    assert [one.text for one in store.anew.written([report_id], before=before)[report_id]] == ["It is wrong."]
    after = store.anew.written([report_id], before=utcnow())
    assert [one.writer for one in after[report_id]] == ["generation 1 (self:base)"]
    assert store.anew.written([report_id], before=before - timedelta(days=1)) == {}
