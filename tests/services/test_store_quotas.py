"""What one principal may store in 24 hours, in reports and in bytes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from connectors.messages import FlaggedResponse
from daemon.config.sources import Limits
from daemon.records import ReportState, Source
from daemon.store import Added, Store
from daemon.store.engine import transaction
from daemon.store.quotas import usage
from tests.fixtures.config import flagged

GENEROUS = Limits(reports=1000, size_bytes=10**9, reports_per_reporter=1000)


def send(
    store: Store, *messages: FlaggedResponse, principal: str = "shop", limits: Callable[[str], Limits]
) -> list[Added]:
    source = Source(channel="http", principal=principal)
    return store.reports.add([(message, source) for message in messages], limits=limits)


def bounded(reports: int = 1000, size_bytes: int = 10**9, per_reporter: int = 1000) -> Callable[[str], Limits]:
    """The limits of `shop`; others have generous ones."""
    limits = Limits(reports=reports, size_bytes=size_bytes, reports_per_reporter=per_reporter)
    return lambda principal: limits if principal == "shop" else GENEROUS


def test_reports_beyond_a_principals_quota_are_not_stored_and_others_are_not_held_up(store: Store) -> None:
    limits = bounded(reports=3)
    messages = [flagged(reporter=f"r{number}") for number in range(4)]
    assert send(store, *messages[:2], limits=limits) == [Added.STORED] * 2
    assert send(store, *messages[2:], limits=limits) == [Added.STORED, Added.OVER_QUOTA]
    assert send(store, messages[3], limits=limits) == [Added.OVER_QUOTA]
    assert send(store, messages[3], principal="bank", limits=limits) == [Added.STORED]
    assert sum(store.reports.counts().values()) == 4


def test_a_message_that_is_stored_already_needs_no_quota(store: Store) -> None:
    limits = bounded(reports=1)
    message = flagged()
    assert send(store, message, message, flagged(id=message.id), limits=limits) == [
        Added.STORED,
        Added.REDELIVERED,
        Added.CONFLICT,
    ]


def test_bytes_are_bounded_as_reports_are(store: Store) -> None:
    limits = bounded(size_bytes=30_000)
    large = [flagged(response="x" * 9_000) for _ in range(4)]
    assert send(store, *large, limits=limits) == [*[Added.STORED] * 3, Added.OVER_QUOTA]
    assert send(store, flagged(), limits=limits) == [Added.STORED], "a small one still fits"


def test_a_loud_reporter_leaves_room_for_the_others_of_its_principal(store: Store) -> None:
    limits = bounded(reports=10, per_reporter=2)
    loud = [flagged(reporter="loud") for _ in range(12)]
    outcomes = send(store, *loud, limits=limits)
    assert outcomes == [*[Added.STORED] * 2, *[Added.QUARANTINED] * 3, *[Added.OVER_QUOTA] * 7]
    others = [flagged(reporter=f"r{number}") for number in range(6)]
    assert send(store, *others, limits=limits) == [*[Added.STORED] * 5, Added.OVER_QUOTA]


def test_erasing_or_deleting_a_report_gives_no_quota_back(store: Store) -> None:
    limits = bounded(reports=1)
    message = flagged()
    send(store, message, limits=limits)
    store.reports.erase(message.id, actor="op", reason="asked")
    assert send(store, flagged(), limits=limits) == [Added.OVER_QUOTA]


def test_after_a_day_there_is_room_again_and_old_hours_are_forgotten(store: Store) -> None:
    limits = bounded(reports=2)
    send(store, flagged(), flagged(), limits=limits)
    assert send(store, flagged(), limits=limits) == [Added.OVER_QUOTA]
    _age(store, timedelta(hours=22))
    assert send(store, flagged(), limits=limits) == [Added.OVER_QUOTA]
    _age(store, timedelta(hours=2))
    assert send(store, flagged(), limits=limits) == [Added.STORED]
    with transaction(store.engine) as connection:
        assert connection.execute(select(func.count()).select_from(usage)).scalar() == 1


def _age(store: Store, by: timedelta) -> None:
    with transaction(store.engine) as connection:
        hours = connection.execute(select(usage.c.hour)).scalars().all()
        for hour in hours:
            connection.execute(update(usage).where(usage.c.hour == hour).values(hour=hour - by))


@pytest.mark.parametrize("size", [1, 7])
def test_a_batch_ends_as_its_messages_one_by_one_would(new_store: Callable[[], Store], size: int) -> None:
    messages = [flagged(id=f"id-{number}", reporter="ab"[number % 3 == 0]) for number in range(21)]
    limits = bounded(reports=24, per_reporter=4)
    store = new_store()
    outcomes = [
        outcome
        for start in range(0, len(messages), size)
        for outcome in send(store, *messages[start : start + size], limits=limits)
    ]
    assert outcomes == send(new_store(), *messages, limits=limits)
    assert store.reports.counts()[ReportState.QUARANTINED] == outcomes.count(Added.QUARANTINED) > 0
    assert Added.OVER_QUOTA in outcomes
