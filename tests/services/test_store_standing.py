"""Which report stands for an answer: being first gains nothing, and what is put aside silences nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from connectors.messages import EventType, FlaggedResponse
from daemon.records import ReportState, Source
from daemon.store import Added, Store
from daemon.store.standing import MAX_HEIRS
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson, mark, quarantine, waiting_events


def send(store: Store, principal: str, *messages: FlaggedResponse) -> list[Added]:
    source = Source(channel="test", principal=principal)
    return store.reports.add([(message, source) for message in messages], reporter_cap=1000)


def twin(of: FlaggedResponse, reporter: str, **changes: Any) -> FlaggedResponse:
    """Another report of the same answer."""
    return flagged(messages=of.messages, response=of.response, reporter=reporter, **changes)


def analyse(store: Store) -> list[str]:
    claims = store.reports.claim(owner="w", limit=99, lease_s=60)
    for claim in claims:
        store.reports.complete(claim, lesson(claim.report.id))
    return [claim.report.id for claim in claims]


def bury(store: Store, _report_id: str) -> None:
    store.reports.bury(store.reports.claim(owner="w", limit=1, lease_s=60)[0], reason="no analysis passed")


def reject(store: Store, report_id: str) -> None:
    analyse(store)
    store.reviews.reject(report_id, actor="op", reason="no mistake")


def standing(store: Store, one: FlaggedResponse) -> str:
    """The report that stands for the answer of this one."""
    return store.reports.get(one.id).duplicate_of or one.id


@pytest.mark.parametrize("put_aside", [bury, reject, quarantine])
def test_what_is_put_aside_later_leaves_its_duplicates_an_original_that_is_analysed(
    store: Store, put_aside: Callable[[Store, str], None]
) -> None:
    hostile = flagged(reporter="x")
    honest = [twin(hostile, f"user-{number}", correction="Canberra.") for number in range(30)]
    send(store, "anyone", hostile)
    send(store, "app", *honest)
    put_aside(store, hostile.id)
    [heir] = {standing(store, one) for one in honest}
    assert heir in {one.id for one in honest}
    assert analyse(store) == [heir]
    report = store.reports.get(heir)
    assert (report.state, len(report.others)) == (ReportState.LESSON, 29)
    assert [one.subject for one in waiting_events(store) if one.type == EventType.REPORT_BURIED] == (
        [] if put_aside is quarantine else [hostile.id]
    )


def test_one_answer_is_not_given_up_for_ever_and_all_its_reporters_hear_of_it(store: Store) -> None:
    first = flagged()
    others = [twin(first, f"user-{number}") for number in range(9)]
    send(store, "app", first, *others)
    for _ in range(MAX_HEIRS + 1):
        bury(store, "")
    assert store.reports.claim(owner="w", limit=1, lease_s=60) == []
    told = {one.subject for one in waiting_events(store) if one.type == EventType.REPORT_BURIED}
    assert told == {first.id, *(one.id for one in others)}


@pytest.mark.parametrize("analysed", [False, True])
def test_the_side_of_more_principals_takes_over(store: Store, analysed: bool) -> None:
    hostile = flagged(reporter="x", category="own")
    send(store, "anyone", hostile, *(twin(hostile, f"sybil-{number}", category="own") for number in range(12)))
    if analysed:
        analyse(store)
    one, two = (twin(hostile, "ann", correction="Canberra.") for _ in range(2))
    send(store, "app", one)
    assert standing(store, one) == hostile.id
    send(store, "site", two)
    assert (standing(store, hostile), standing(store, two)) == (one.id, one.id)
    assert store.reports.lesson(hostile.id) is None
    assert analyse(store) == [one.id]
    assert len(store.reports.get(one.id).others) == 14
    assert send(store, "app", twin(hostile, "eve")) == [Added.DUPLICATE]


@pytest.mark.parametrize("analysed", [False, True])
def test_a_report_without_a_category_yields_to_one_that_names_one_and_takes_over_from_none(
    store: Store, analysed: bool
) -> None:
    bare = flagged(category=None, reason="")
    crowd = [twin(bare, f"user-{number}", category=None, reason="") for number in range(9)]
    send(store, "app", bare, *crowd)
    if analysed:
        analyse(store)
    named = twin(bare, "ann", category="format")
    send(store, "site", named)
    assert {standing(store, one) for one in (bare, *crowd)} == {named.id}
    send(store, "app", *(twin(bare, f"other-{number}", category=None) for number in range(9)))
    assert standing(store, bare) == named.id
    bury(store, named.id)
    assert store.reports.get(standing(store, bare)).category == "unknown"


def test_of_what_is_left_a_report_that_names_a_category_stands_for_the_answer(store: Store) -> None:
    first = flagged(category="style")
    bare = [twin(first, f"user-{number}", category=None) for number in range(9)]
    named = twin(first, "ann", category="style")
    send(store, "app", first, *bare, named)
    bury(store, first.id)
    assert standing(store, bare[0]) == named.id


def test_among_the_same_principals_one_hostile_report_does_not_stand_for_thirty_honest_ones(store: Store) -> None:
    hostile = flagged(reporter="x", category="own")
    honest = [twin(hostile, f"user-{number}") for number in range(30)]
    send(store, "app", hostile)
    for one in honest:
        send(store, "app", one)
    assert {standing(store, one) for one in [hostile, *honest]} == {honest[0].id}


def test_a_crowd_of_names_in_one_principal_does_not_take_over_from_another_principal(store: Store) -> None:
    honest = flagged(reporter="ann")
    send(store, "app", honest)
    send(store, "anyone", *(twin(honest, f"sybil-{number}", category="own") for number in range(50)))
    assert standing(store, honest) == honest.id
    assert analyse(store) == [honest.id]


@pytest.mark.parametrize("kept", ["reviewed", "resolved"])
def test_what_a_person_reviewed_or_a_generation_fixed_stays(store: Store, kept: str) -> None:
    first = flagged(category="own")
    send(store, "anyone", first)
    analyse(store)
    if kept == "reviewed":
        store.reviews.accept(first.id, actor="op", reason="right")
    else:
        mark(store, [first.id], ReportState.RESOLVED, generation=0)
    for principal in ("app", "site"):
        send(store, principal, twin(first, "ann"))
    assert standing(store, first) == first.id


def test_one_that_is_being_analysed_is_replaced_when_that_ends(store: Store) -> None:
    first = flagged(category="own")
    send(store, "anyone", first)
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    honest = [twin(first, "ann") for _ in range(2)]
    for principal, one in zip(("app", "site"), honest, strict=True):
        send(store, principal, one)
    assert standing(store, first) == first.id
    store.reports.complete(claim, lesson(first.id))
    assert standing(store, first) == honest[0].id
