"""Several reports of one answer in the store: all of them count, and each can be taken out alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event, text

from connectors.messages import Checks, EventType, FlaggedResponse
from daemon.errors import LeaseLostError
from daemon.records import ReportState, Source
from daemon.store import Added, Store, schema
from daemon.store.duplicates import EVERY_ONE, MAX_PARTS, MAX_RANKED, _duplicates
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn, lesson, mark, quarantine, waiting_events


def twin(of: FlaggedResponse, **changes: Any) -> FlaggedResponse:
    """Another report of the same answer."""
    return flagged(**{"messages": of.messages, "response": of.response, "reason": "", **changes})


def state(store: Store, message: FlaggedResponse) -> ReportState:
    return store.reports.get(message.id).state


def analyse(store: Store, analysis: str = "An analysis.") -> None:
    for claim in store.reports.claim(owner="w", limit=99, lease_s=60):
        store.reports.complete(claim, lesson(claim.report.id, analysis=analysis))


def told(store: Store, kind: EventType) -> list[str]:
    return [one.subject for one in waiting_events(store) if one.type == kind]


def test_a_second_report_of_an_answer_adds_its_correction_checks_and_complaint_with_its_reporter(store: Store) -> None:
    first = flagged(reporter="a")
    second = twin(first, reporter="b", correction="Canberra.", checks={"must_contain": ["Canberra"]}, severity="high")
    third = twin(first, reporter="c", reason="Sydney is only the largest city.")
    add(store, first)
    add(store, second)
    add(store, third)
    [claim] = store.reports.claim(owner="w", limit=9, lease_s=60)
    said = [(part.report_id, part.reporter, part.reason, part.correction) for part in claim.report.others]
    assert said == [
        (second.id, "b", "", "Canberra."),
        (third.id, "c", "Sydney is only the largest city.", None),
    ]
    assert claim.report.others[0].checks == Checks(must_contain=["Canberra"])
    assert [part.severity for part in claim.report.parts] == ["medium", "high", "medium"]
    assert claim.report.parts[0].reason == first.reason
    store.reports.complete(claim, lesson(first.id))
    [(trainable, _)] = store.reports.trainable(limit=9)
    assert trainable.others == store.reports.get(first.id).others == claim.report.others
    assert store.reviews.analyses(limit=9)[0][0].others == claim.report.others


def test_a_new_report_that_says_more_has_the_answer_analysed_again(store: Store) -> None:
    first = flagged()
    learn(store, first)
    add(store, twin(first), twin(first, reason=first.reason))
    assert state(store, first) == ReportState.LESSON
    add(store, twin(first, correction="Canberra."))
    report = store.reports.get(first.id)
    assert (report.state, report.attempts) == (ReportState.QUEUED, 0)
    assert report.state_reason == "analysed again: the reports of this answer changed"
    analyse(store, "with the correction")
    assert store.reports.lesson(first.id).analysis == "with the correction"  # type: ignore[union-attr]
    add(store, twin(first, correction="Canberra."))
    assert state(store, first) == ReportState.LESSON


def test_a_follow_up_that_says_more_has_the_answer_analysed_again(store: Store) -> None:
    first = flagged(reason="")
    add(store, first)
    analyse(store)
    again = {"messages": first.messages, "response": first.response, "reason": ""}
    add(store, flagged(**again, follow_up="No, I asked for the capital."))
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    assert [part.follow_up for part in claim.report.parts] == [None, "No, I asked for the capital."]
    store.reports.complete(claim, lesson(first.id))
    add(store, flagged(**again, follow_up="No, I asked for the capital."), flagged(**again))
    assert store.reports.get(first.id).state is ReportState.LESSON


def test_a_report_that_comes_during_the_analysis_is_not_missed(store: Store) -> None:
    first = flagged()
    add(store, first)
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    add(store, twin(first, correction="Canberra."))
    store.reports.complete(claim, lesson(first.id))
    assert state(store, first) == ReportState.QUEUED
    analyse(store)
    assert state(store, first) == ReportState.LESSON


def test_of_reports_that_come_while_lessons_are_stored_none_is_missed(store: Store) -> None:
    firsts = [flagged() for _ in range(30)]
    add(store, *firsts)
    claims = store.reports.claim(owner="w", limit=30, lease_s=60)
    late = threading.Thread(target=lambda: [add(store, twin(one, correction="Canberra.")) for one in firsts])
    late.start()
    seen: dict[str, int] = {}
    ended = False
    while claims or not ended:
        for claim in claims:
            seen[claim.report.id] = len(claim.report.others)
            store.reports.complete(claim, lesson(claim.report.id))
        late.join(0.01)
        ended = not late.is_alive()
        claims = store.reports.claim(owner="w", limit=30, lease_s=60)
    assert seen == {one.id: 1 for one in firsts}


def test_a_persons_review_is_not_undone_by_a_new_report(store: Store) -> None:
    first = flagged()
    learn(store, first)
    store.reviews.accept(first.id, actor="op", reason="right")
    add(store, twin(first, correction="Canberra."))
    assert state(store, first) == ReportState.LESSON
    assert store.reports.get(first.id).others[0].correction == "Canberra."


def test_a_fixed_answer_stays_fixed_when_it_is_reported_again(store: Store) -> None:
    first = flagged()
    learn(store, first)
    mark(store, [first.id], ReportState.RESOLVED, generation=0)
    assert add(store, twin(first, correction="Canberra.")) == [Added.DUPLICATE]
    assert state(store, first) == ReportState.RESOLVED


def test_very_many_reports_of_one_answer_start_few_analyses(sqlite_store: Store) -> None:
    store, first = sqlite_store, flagged()
    learn(store, first)
    analyses = 0
    for number in range(MAX_PARTS + 10):
        add(store, twin(first, reason=f"Complaint {number}."))
        if state(store, first) == ReportState.QUEUED:
            analyses += 1
            analyse(store)
    assert analyses == EVERY_ONE + 2
    others = store.reports.get(first.id).others
    assert (len(others), others[-1].reason) == (MAX_PARTS, f"Complaint {MAX_PARTS + 9}.")


def test_no_sender_fills_the_parts_of_an_answer(sqlite_store: Store) -> None:
    store, first = sqlite_store, flagged()
    add(store, first)
    honest = [twin(first, reporter=f"user-{number}", correction="Canberra.") for number in range(3)]
    store.reports.add([(one, Source(channel="test", principal="site")) for one in honest], reporter_cap=999)
    add(store, *(twin(first, reporter=f"sybil-{number}", reason=f"{number}") for number in range(MAX_PARTS + 20)))
    add(store, *(twin(first, reporter="loud", reason=f"{number}") for number in range(MAX_RANKED - MAX_PARTS - 20)))
    others = store.reports.get(first.id).others
    assert len(others) == MAX_PARTS
    assert {one.id for one in honest} <= {part.report_id for part in others}
    assert [part.principal for part in others].count("site") == 3
    assert sum(part.reporter == "loud" for part in others) == 1


def test_of_very_many_duplicates_the_newest_of_each_principal_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = flagged()
    add(store, first)
    for number in range(9):
        message = twin(first, id=f"{number}", reporter=f"user-{number % 3}", reason=f"Complaint {number}.")
        store.reports.add([(message, Source(channel="test", principal="site" if number < 3 else "app"))])
    everything = [part.report_id for part in store.reports.get(first.id).others]
    assert len(everything) == 9
    monkeypatch.setattr("daemon.store.duplicates.MAX_RANKED", 9)
    assert [part.report_id for part in store.reports.get(first.id).others] == everything
    monkeypatch.setattr("daemon.store.duplicates.MAX_RANKED", 2)
    assert [part.report_id for part in store.reports.get(first.id).others] == ["1", "2", "7", "8"]


def test_all_reporters_hear_of_the_outcome(store: Store) -> None:
    first, alone = flagged(), flagged()
    second, third = twin(first), twin(first)
    add(store, first, second, third, alone)
    analyse(store)
    mark(store, [first.id, alone.id], ReportState.RESOLVED, generation=3)
    assert sorted(told(store, EventType.REPORT_RESOLVED)) == sorted([first.id, second.id, third.id, alone.id])
    mark(store, [first.id], ReportState.RECURRING, generation=4)
    assert sorted(told(store, EventType.REPORT_RECURRING)) == sorted([first.id, second.id, third.id])


def test_erasing_a_duplicate_removes_its_part_alone(store: Store) -> None:
    first = flagged()
    second, third = twin(first, correction="My name is Ada."), twin(first, correction="Canberra.")
    add(store, first, second, third)
    analyse(store, "Ada wants to be greeted.")
    store.reports.erase(second.id, actor="op", reason="asked")
    report = store.reports.get(first.id)
    assert [part.correction for part in report.others] == ["Canberra."]
    assert report.state == ReportState.QUEUED
    assert store.reports.lesson(first.id) is None
    assert "Ada" not in str([store.reports.get(one.id) for one in (first, second, third)])


def test_erasing_a_duplicate_that_added_nothing_changes_no_analysis(store: Store) -> None:
    first = flagged()
    second = twin(first, reason=first.reason)
    add(store, first, second)
    analyse(store)
    store.reports.erase(second.id, actor="op", reason="asked")
    assert state(store, first) == ReportState.LESSON
    assert store.reports.lesson(first.id) is not None


def test_a_part_erased_during_the_analysis_gets_into_no_lesson(store: Store) -> None:
    first = flagged()
    second = twin(first, correction="My name is Ada.")
    add(store, first, second)
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    store.reports.erase(second.id, actor="op", reason="asked")
    with pytest.raises(LeaseLostError):
        store.reports.complete(claim, lesson(first.id, correction="My name is Ada.", correction_source="user"))
    [again] = store.reports.claim(owner="w", limit=1, lease_s=60)
    assert again.report.others == ()


def test_erasing_the_first_report_leaves_the_others(store: Store) -> None:
    first = flagged()
    second, third = twin(first, reason="Wrong city."), twin(first, correction="Canberra.")
    add(store, first)
    add(store, second)
    add(store, third)
    analyse(store)
    store.reports.erase(first.id, actor="op", reason="asked")
    heir = store.reports.get(second.id)
    assert (heir.state, heir.duplicate_of, heir.flagged.reason) == (ReportState.QUEUED, None, "Wrong city.")
    assert [part.correction for part in heir.others] == ["Canberra."]
    assert store.reports.get(third.id).duplicate_of == second.id
    assert add(store, twin(first)) == [Added.DUPLICATE]


@pytest.mark.parametrize("aside", ["quarantined", "buried", "over the cap"])
def test_a_report_that_was_set_aside_silences_no_later_report_of_its_answer(store: Store, aside: str) -> None:
    first = flagged(reporter="loud")
    add(store, first, reporter_cap=0 if aside == "over the cap" else 9)
    if aside == "quarantined":
        quarantine(store, first.id)
    if aside == "buried":
        store.reports.bury(store.reports.claim(owner="w", limit=1, lease_s=60)[0], reason="no analysis passed")
    second, third = twin(first, reporter="b"), twin(first, reporter="c")
    assert add(store, second, third) == [Added.STORED, Added.DUPLICATE]
    assert store.reports.get(third.id).duplicate_of == second.id


def test_a_duplicate_counts_under_the_cap_of_its_reporter(store: Store) -> None:
    first = flagged(reporter="a")
    add(store, first)
    loud = [twin(first, id=f"loud-{number}", reporter="loud", correction=f"Town {number}.") for number in range(3)]
    assert add(store, *loud, reporter_cap=2) == [Added.DUPLICATE, Added.DUPLICATE, Added.QUARANTINED]
    assert [part.report_id for part in store.reports.get(first.id).others] == [one.id for one in loud[:2]]


def test_the_duplicates_of_a_report_are_found_by_an_index(sqlite_store: Store) -> None:
    query = _duplicates(["one"], schema.reports.c.id).compile(
        sqlite_store.engine, compile_kwargs={"literal_binds": True}
    )
    with sqlite_store.engine.connect() as connection:
        plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    assert plan[0] == "SEARCH reports USING INDEX ix_reports_duplicate_of (duplicate_of=?)"


def test_the_number_of_statements_does_not_grow_with_the_duplicates(sqlite_store: Store) -> None:
    counts = []
    for size in (2, 40):
        firsts = [flagged() for _ in range(size)]
        learn(sqlite_store, *firsts)
        statements: list[str] = []
        engine = sqlite_store.engine
        event.listen(engine, "before_cursor_execute", lambda *args, seen=statements: seen.append(args[2]))
        add(sqlite_store, *(twin(one, correction="Canberra.") for one in firsts))
        counts.append(len(statements))
    assert counts[0] == counts[1]
