"""The outbox: due events are found by an index, and those of an older database are neither lost nor repeated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from connectors.messages import Event, EventType
from daemon.records import utcnow
from daemon.store import Store
from daemon.store.engine import connect, transaction
from daemon.store.outbox import KAFKA, Attempt, DeliveryState, Sink, Subscription, due_query, emit
from daemon.store.revision import MIGRATIONS
from tests.fixtures.stores import waiting_events

WEBHOOK = Subscription(sink=Sink.WEBHOOK, types=(EventType.REPORT_RESOLVED, EventType.ADAPTER_PROMOTED))
DELIVERED = 20_000
INTO_DELIVERIES = "INSERT INTO deliveries (sequence, sink, type, state, attempts, updated_at)"
NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count) "


def test_events_of_one_change_keep_their_order(store: Store) -> None:
    subjects = [f"report-{number}" for number in range(2500)]
    with transaction(store.engine) as connection:
        for subject in subjects:
            emit(connection, EventType.REPORT_RESOLVED, subject, {})
    assert [event.subject for event in waiting_events(store, limit=5000)] == subjects


@pytest.mark.parametrize(
    ("subscription", "index"), [(KAFKA, "ix_deliveries_due"), (WEBHOOK, "ix_deliveries_type")], ids=["kafka", "webhook"]
)
def test_what_is_due_is_found_by_an_index(store: Store, subscription: Subscription, index: str) -> None:
    fill = (
        "INSERT INTO outbox (sequence, event_id, event, created_at) SELECT n, 'e' || n, '{}', :now FROM numbers",
        f"{INTO_DELIVERIES} SELECT n, 'kafka', 'lesson.created', 'delivered', 1, :now FROM numbers",
        # the webhook never takes these: they wait until they are pruned
        f"{INTO_DELIVERIES} SELECT n, 'webhook', 'lesson.created', 'waiting', 0, :now FROM numbers",
    )
    with transaction(store.engine) as connection:
        for statement in fill:
            connection.execute(text(NUMBERS + statement), {"count": DELIVERED, "now": utcnow().isoformat(" ")})
    with transaction(store.engine) as connection:
        connection.execute(text("ANALYZE"))
    query = due_query(subscription, at=utcnow(), limit=200)
    compiled = query.compile(store.engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN" if store.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with store.engine.connect() as connection:
        plan = "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {compiled}"))
    assert index in plan, plan
    assert "Seq Scan" not in plan, plan
    assert "SCAN" not in plan, plan


def test_events_of_the_revision_before_are_neither_lost_nor_sent_twice(
    database_url: str, open_stores: Callable[[str], Store]
) -> None:
    events = _older_database(database_url)
    store = open_stores(database_url)
    later = utcnow() + timedelta(days=1)
    everything = Subscription(sink=Sink.WEBHOOK)
    assert waiting_events(store) == [events[name] for name in ("unpublished", "refused", "dead")]
    due = store.outbox.due(everything, limit=100)
    assert [one.event for one in due] == [events[name] for name in ("published", "unpublished")]
    [refused] = [one for one in store.outbox.due(everything, limit=100, at=later) if one.attempts]
    assert (refused.event, refused.attempts) == (events["refused"], 3)
    backlog = store.outbox.backlog(everything)
    assert (backlog.waiting, backlog.dead, backlog.last_error) == (3, 1, "HTTP 410")
    assert store.outbox.backlog(KAFKA).waiting == 3
    only_wanted = Subscription(sink=Sink.WEBHOOK, types=(EventType.REPORT_BURIED,))
    assert store.outbox.due(only_wanted, limit=100) == []


def test_an_event_that_a_sink_took_is_due_there_no_more(database_url: str, open_stores: Callable[[str], Store]) -> None:
    events = _older_database(database_url)
    store = open_stores(database_url)
    first, *_ = store.outbox.due(KAFKA, limit=1)
    store.outbox.record(KAFKA, [Attempt(due=first, state=DeliveryState.DELIVERED)])
    assert waiting_events(store) == [events["refused"], events["dead"]]
    assert len(store.outbox.due(Subscription(sink=Sink.WEBHOOK), limit=100)) == 2


def _older_database(url: str) -> dict[str, Event]:
    """A database at revision 0008: Kafka took the event `published`, the webhook `delivered`."""
    now, engine, config = utcnow(), connect(url), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    events = {
        name: Event(id=name, type=EventType.LESSON_CREATED, occurred_at=now, subject=name, data={})
        for name in ("published", "unpublished", "delivered", "refused", "dead")
    }
    deliveries = [
        ("delivered", "delivered", 1, None, None, now),
        ("refused", "waiting", 3, now + timedelta(hours=1), "HTTP 503", now),
        ("dead", "dead", 9, None, "HTTP 410", now + timedelta(seconds=1)),
    ]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0008")
        for name, event in events.items():
            connection.execute(
                text("INSERT INTO outbox (event_id, event, created_at, published_at) VALUES (:id, :event, :now, :at)"),
                {
                    "id": name,
                    "event": event.model_dump_json(),
                    "now": now,
                    "at": now if name in {"published", "delivered"} else None,
                },
            )
        for name, state, attempts, again, error, at in deliveries:
            connection.execute(
                text("INSERT INTO deliveries VALUES (:id, 'webhook', :state, :attempts, :again, :error, :at)"),
                {"id": name, "state": state, "attempts": attempts, "again": again, "error": error, "at": at},
            )
    engine.dispose()
    return events
