"""Events on their way out: written in the transaction of their change, delivered to each sink separately.

Every event has a row in `deliveries` for every sink from the start. An index finds the due events of a sink, and no
sink waits for another. The rows of a sink that is not configured stay until the event is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    bindparam,
    delete,
    false,
    func,
    or_,
    select,
    update,
)

from connectors.messages import Event, EventType
from daemon.records import utcnow
from daemon.store import schema
from daemon.store.duplicates import batches
from daemon.store.engine import reading, transaction

PRUNE = 1000


class Sink(StrEnum):
    KAFKA = "kafka"
    WEBHOOK = "webhook"
    MLFLOW = "mlflow"
    OTLP = "otlp"


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The events for one sink; `types` None: all events."""

    sink: Sink
    types: tuple[EventType, ...] | None = None


KAFKA = Subscription(sink=Sink.KAFKA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An event that is not delivered yet, with the number of attempts so far."""

    sequence: int
    event: Event
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The outcome of one more attempt to deliver an event. `next_attempt_at` is set if the event still waits."""

    due: Due
    state: DeliveryState
    error: str | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The number of waiting events and of events given up, and the latest error of either."""

    waiting: int
    dead: int
    last_error: str | None


def emit(connection: Connection, kind: EventType, subject: str, data: Mapping[str, Any]) -> None:
    """Put an event into the outbox, in the transaction of its change."""
    _emit(connection, kind, [(subject, data)])


def emit_about(connection: Connection, kind: EventType, report_ids: Sequence[str], data: Mapping[str, Any]) -> None:
    """One event for each report, in order, with its principal and the id as sent, so that its sender finds it."""
    table = schema.reports
    sent = {
        row.id: {"principal": row.principal, "sent_id": row.sent_id}
        for some in batches(report_ids)
        for row in connection.execute(
            select(table.c.id, table.c.principal, table.c.sent_id).where(table.c.id.in_(some))
        )
    }
    _emit(connection, kind, [(report_id, {**data, **sent[report_id]}) for report_id in report_ids])


def _emit(connection: Connection, kind: EventType, told: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    now = utcnow()
    events = [
        Event(id=uuid.uuid4().hex, type=kind, occurred_at=now, subject=subject, data=dict(data))
        for subject, data in told
    ]
    if not events:
        return
    sequences = connection.execute(
        schema.outbox.insert().returning(schema.outbox.c.sequence, sort_by_parameter_order=True),
        [{"event_id": one.id, "event": one.model_dump(mode="json"), "created_at": now} for one in events],
    ).scalars()
    waiting = {"type": kind, "state": DeliveryState.WAITING, "attempts": 0, "updated_at": now}
    connection.execute(
        schema.deliveries.insert(),
        [{"sequence": sequence, "sink": sink, **waiting} for sequence in sequences for sink in Sink],
    )


class Outbox:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due(self, subscription: Subscription, *, limit: int, at: datetime | None = None) -> list[Due]:
        """Events whose next attempt is due, oldest first."""
        with reading(self._engine) as connection:
            return [
                Due(sequence=row.sequence, event=Event.model_validate(row.event), attempts=row.attempts)
                for row in connection.execute(due_query(subscription, at=at or utcnow(), limit=limit))
            ]

    def record(self, subscription: Subscription, attempts: Sequence[Attempt]) -> None:
        """Store the outcomes of attempts in one transaction."""
        table = schema.deliveries
        query = update(table).where(table.c.sequence == bindparam("of"), table.c.sink == subscription.sink)
        outcomes = [
            {
                "of": attempt.due.sequence,
                "state": attempt.state,
                "attempts": attempt.due.attempts + 1,
                "error": attempt.error,
                "next_attempt_at": attempt.next_attempt_at,
                "updated_at": utcnow(),
            }
            for attempt in attempts
        ]
        with transaction(self._engine) as connection:
            connection.execute(query, outcomes)

    def backlog(self, subscription: Subscription) -> Backlog:
        table, taken = schema.deliveries, _taken_by(subscription)
        count = select(func.count()).select_from(table)
        error = select(table.c.error).where(table.c.sink == subscription.sink, table.c.error.is_not(None))
        with reading(self._engine) as connection:
            return Backlog(
                waiting=connection.execute(count.where(taken, table.c.state == DeliveryState.WAITING)).scalar_one(),
                dead=connection.execute(
                    count.where(table.c.sink == subscription.sink, table.c.state == DeliveryState.DEAD)
                ).scalar_one(),
                last_error=connection.execute(error.order_by(table.c.updated_at.desc()).limit(1)).scalar(),
            )

    def prune(self, *, older_than_s: float, subscriptions: Sequence[Subscription]) -> int:
        """Delete old events that every configured sink has delivered or given up; returns their number."""
        outbox, table = schema.outbox, schema.deliveries
        waits = (
            select(table.c.sequence)
            .where(
                table.c.sequence == outbox.c.sequence,
                table.c.state == DeliveryState.WAITING,
                or_(false(), *map(_taken_by, subscriptions)),
            )
            .exists()
        )
        old = outbox.c.created_at < utcnow() - timedelta(seconds=older_than_s)
        with transaction(self._engine) as connection:
            gone = connection.execute(select(outbox.c.sequence).where(old, ~waits).limit(PRUNE)).scalars().all()
            connection.execute(delete(table).where(table.c.sequence.in_(gone)))
            connection.execute(delete(outbox).where(outbox.c.sequence.in_(gone)))
        return len(gone)


def due_query(subscription: Subscription, *, at: datetime, limit: int) -> Select[Any]:
    """The statement of `Outbox.due`. A stage runs it every second or two, so it must stay fast."""
    outbox, table = schema.outbox, schema.deliveries
    # + 0 prevents an order by index, which would scan every event that this sink does not take
    order = table.c.sequence if subscription.types is None else table.c.sequence + 0
    return (
        select(table.c.sequence, table.c.attempts, outbox.c.event)
        .join(outbox, outbox.c.sequence == table.c.sequence)
        .where(
            _taken_by(subscription),
            table.c.state == DeliveryState.WAITING,
            or_(table.c.next_attempt_at.is_(None), table.c.next_attempt_at <= at),
        )
        .order_by(order)
        .limit(limit)
    )


def _taken_by(subscription: Subscription) -> ColumnElement[bool]:
    table = schema.deliveries
    of_sink = table.c.sink == subscription.sink
    return of_sink if subscription.types is None else and_(of_sink, table.c.type.in_(subscription.types))
