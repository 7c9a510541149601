"""Intake: the same message is stored once, by every way of redelivery."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import event

from connectors.messages import FlaggedResponse
from daemon.errors import NotFoundError
from daemon.records import ReportState, Source
from daemon.store import Added, Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, url_of


def test_a_message_is_stored_as_it_came(store: Store) -> None:
    message = flagged(
        correction="Paris", checks={"must_contain": ["Paris"]}, tenant="t", metadata={"k": [1, None, "ü\U0001f600"]}
    )
    source = Source(channel="erratad.flagged-responses", partition=3, offset=2**40)
    assert store.reports.add([(message, source)], reporter_cap=1) == [Added.STORED]
    report = store.reports.get(message.id)
    assert report.flagged == message
    assert report.source == source
    assert (report.state, report.attempts, report.duplicate_of) == (ReportState.QUEUED, 0, None)


def test_a_redelivered_message_makes_no_second_row(store: Store) -> None:
    message = flagged()
    assert add(store, message, message) == [Added.STORED, Added.REDELIVERED]
    assert add(store, message) == [Added.REDELIVERED]
    assert len(store.reports.find()) == 1


def test_an_id_that_comes_with_other_content_is_a_conflict_and_changes_nothing(store: Store) -> None:
    message = flagged()
    other = flagged(id=message.id, reason="Another reason.")
    assert add(store, message, other) == [Added.STORED, Added.CONFLICT]
    assert add(store, other) == [Added.CONFLICT]
    assert store.reports.get(message.id).flagged == message


def test_a_report_of_an_answer_that_is_reported_already_is_a_duplicate_of_the_first(store: Store) -> None:
    first = flagged()
    content = {"messages": first.messages, "response": first.response}
    second, third = flagged(**content, reporter="b"), flagged(**content, reporter="c")
    assert add(store, first, second) == [Added.STORED, Added.DUPLICATE]
    assert add(store, third) == [Added.DUPLICATE]
    assert {store.reports.get(one.id).duplicate_of for one in (second, third)} == {first.id}
    assert len(store.reports.claim(owner="w", limit=9, lease_s=60)) == 1


def test_the_answer_of_an_erased_report_can_be_reported_anew(store: Store) -> None:
    first = flagged()
    add(store, first)
    store.reports.erase(first.id, actor="op", reason="asked")
    again = flagged(messages=first.messages, response=first.response)
    assert add(store, again, first) == [Added.STORED, Added.REDELIVERED]


def test_reports_above_the_reporters_cap_are_quarantined_also_within_a_batch(store: Store) -> None:
    messages = [flagged(reporter="loud") for _ in range(4)]
    assert add(store, *messages[:3], reporter_cap=2) == [Added.STORED, Added.STORED, Added.QUARANTINED]
    assert add(store, messages[3], flagged(reporter="quiet"), reporter_cap=2) == [Added.QUARANTINED, Added.STORED]
    report = store.reports.get(messages[2].id)
    assert report.state == ReportState.QUARANTINED
    assert "loud sent more than 2 reports" in (report.state_reason or "")


def test_one_batch_ends_as_its_messages_one_by_one_would(new_store: Callable[[], Store]) -> None:
    chance = random.Random(7)
    pool = [
        flagged(
            id=f"id-{number}",
            messages=[{"role": "user", "content": "same question"}],
            response=f"answer {number % 20}",
            reporter="abc"[number % 3],
        )
        for number in range(40)
    ]
    others = [flagged(id=message.id) for message in pool]
    messages = [chance.choice(pool if chance.random() < 0.9 else others) for _ in range(80)]
    at_once, one_by_one = new_store(), new_store()
    outcomes = add(at_once, *messages, reporter_cap=5)
    assert outcomes == [outcome for message in messages for outcome in add(one_by_one, message, reporter_cap=5)]
    assert set(outcomes) == set(Added) - {Added.OVER_QUOTA, Added.TOO_MUCH, Added.WAITING, Added.KEPT}
    stores = (at_once, one_by_one)
    left, right = ({r.id: (r.state, r.duplicate_of) for r in one.reports.find(limit=99)} for one in stores)
    assert left == right


def test_a_batch_costs_a_handful_of_statements(store: Store) -> None:
    statements: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda _c, _cursor, text, *_rest: statements.append(text))
    add(store, *[flagged() for _ in range(300)])
    assert len(statements) <= 13


def test_ten_thousand_messages_go_in_within_seconds(store: Store) -> None:
    messages = [flagged(reporter=f"reporter-{number % 50}") for number in range(10_000)]
    started = time.monotonic()
    for start in range(0, len(messages), 500):
        assert set(add(store, *messages[start : start + 500])) == {Added.STORED}
    assert time.monotonic() - started < 60
    assert store.reports.counts()[ReportState.QUEUED] == 10_000


@pytest.mark.parametrize("split", ["same batches", "shuffled batches"])
def test_consumers_that_store_the_same_messages_at_once_store_each_once(
    store: Store, open_stores: Callable[[str], Store], split: str
) -> None:
    originals = [flagged() for _ in range(40)]
    copies = [flagged(messages=one.messages, response=one.response) for one in originals]
    messages = originals + copies
    outcomes: Counter[Added] = Counter()
    failures: list[Exception] = []
    barrier = threading.Barrier(4)

    def consume(mine: list[FlaggedResponse], own: Store) -> None:
        barrier.wait()
        try:
            for start in range(0, len(mine), 8):
                outcomes.update(add(own, *mine[start : start + 8]))
        except Exception as exc:
            failures.append(exc)

    threads = []
    for number in range(4):
        mine = list(messages)
        if split == "shuffled batches":
            random.Random(number).shuffle(mine)
        threads.append(threading.Thread(target=consume, args=(mine, open_stores(url_of(store)))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert outcomes == {Added.STORED: 40, Added.DUPLICATE: 40, Added.REDELIVERED: 240}
    reports = store.reports.find(limit=100)
    assert len(reports) == 80
    assert sum(report.state == ReportState.QUEUED for report in reports) == 40


# --- principals ---


def _sent(store: Store, principal: str, message: FlaggedResponse) -> list[Added]:
    return store.reports.add([(message, Source(channel="http", principal=principal))], reporter_cap=2)


def test_an_id_belongs_to_the_principal_that_sent_it(store: Store) -> None:
    ours = flagged(id="ticket-1", response="Another answer.", reason="ours")
    assert _sent(store, "squatter", flagged(id="ticket-1", reason="mine")) == [Added.STORED]
    assert _sent(store, "backend", ours) == [Added.STORED]
    assert _sent(store, "backend", ours) == [Added.REDELIVERED]
    assert _sent(store, "backend", flagged(id="ticket-1", reason="changed")) == [Added.CONFLICT]
    first, second = store.reports.sent("squatter", "ticket-1"), store.reports.sent("backend", "ticket-1")
    assert (first.id, second.id) == ("ticket-1", "ticket-1@backend")
    assert (second.sent_id, second.source.principal, second.flagged.reason) == ("ticket-1", "backend", "ours")
    assert second.flagged.id == second.id
    with pytest.raises(NotFoundError):
        store.reports.sent("another", "ticket-1")


def test_an_id_made_from_another_can_be_taken_too(store: Store) -> None:
    for principal, report_id in (("a", "x"), ("a", "x@b"), ("b", "x"), ("c/c", "x"), ("c-c", "x")):
        _sent(store, principal, flagged(id=report_id, response=f"{principal} {report_id}"))
    made = [store.reports.sent(principal, "x").id for principal in ("a", "b", "c/c", "c-c")]
    assert made == ["x", "x@b:2", "x@c-c", "x@c-c:2"]


def test_a_reporters_cap_counts_within_its_principal(store: Store) -> None:
    for number in range(2):
        _sent(store, "hostile", flagged(id=f"h{number}", response=f"hostile {number}", reporter="kim"))
    assert _sent(store, "hostile", flagged(id="h2", response="hostile 2", reporter="kim")) == [Added.QUARANTINED]
    assert _sent(store, "backend", flagged(id="b0", response="honest", reporter="kim")) == [Added.STORED]
