"""What became of each event at each further sink beside Kafka, and when events may go.

Kafka's own delivery is `published_at` of the event; a sink here has a row for each event that it was
tried with. So no sink waits for another.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, func, or_, select, update

from connectors.messages import Event, EventType
from daemon.records import utcnow
from daemon.store import schema
from daemon.store.engine import reading, transaction, upsert

WEBHOOK = "webhook"
FETCH = 100
PRUNE = 1000


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """An event that the sink has not taken yet, with the attempts made so far."""

    event: Event
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Events that wait for the sink, those given up, and what it said last."""

    waiting: int
    dead: int
    last_error: str | None


def emit(connection: Connection, kind: EventType, subject: str, data: Mapping[str, Any]) -> None:
    """Put an event into the outbox, in the transaction of the change that it tells of."""
    emit_all(connection, kind, [subject], data)


def emit_all(connection: Connection, kind: EventType, subjects: Sequence[str], data: Mapping[str, Any]) -> None:
    """One event of the same kind and data for each subject, in order."""
    now = utcnow()
    events = [
        Event(id=uuid.uuid4().hex, type=kind, occurred_at=now, subject=subject, data=dict(data)) for subject in subjects
    ]
    if events:
        connection.execute(
            schema.outbox.insert(),
            [{"event_id": one.id, "event": one.model_dump(mode="json"), "created_at": now} for one in events],
        )


class Outbox:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def unpublished(self, *, limit: int = 100) -> list[Event]:
        """Events that no one has acknowledged yet, oldest first."""
        table = schema.outbox
        query = select(table.c.event).where(table.c.published_at.is_(None)).order_by(table.c.sequence).limit(limit)
        with reading(self._engine) as connection:
            return [Event.model_validate(event) for event in connection.execute(query).scalars()]

    def count_unpublished(self) -> int:
        table = schema.outbox
        query = select(func.count()).select_from(table).where(table.c.published_at.is_(None))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one()

    def mark_published(self, event_ids: Sequence[str]) -> None:
        table = schema.outbox
        with transaction(self._engine) as connection:
            connection.execute(update(table).where(table.c.event_id.in_(event_ids)).values(published_at=utcnow()))

    def due(self, types: Sequence[EventType], *, at: datetime | None = None) -> list[Due]:
        """Events of these types whose (next) attempt may be made now, oldest first."""
        outbox, tried = schema.outbox, schema.deliveries
        waits = and_(tried.c.state == DeliveryState.WAITING, tried.c.next_attempt_at <= (at or utcnow()))
        query = (
            select(outbox.c.event, func.coalesce(tried.c.attempts, 0).label("attempts"))
            .outerjoin(tried, _same_event())
            .where(_of(types), or_(tried.c.state.is_(None), waits))
            .order_by(outbox.c.sequence)
            .limit(FETCH)
        )
        with reading(self._engine) as connection:
            return [
                Due(event=Event.model_validate(row.event), attempts=row.attempts) for row in connection.execute(query)
            ]

    def record(
        self, due: Due, state: DeliveryState, *, error: str | None = None, next_attempt_at: datetime | None = None
    ) -> None:
        """What came of one more attempt."""
        values = {
            "event_id": due.event.id,
            "sink": WEBHOOK,
            "state": state,
            "attempts": due.attempts + 1,
            "next_attempt_at": next_attempt_at,
            "error": error,
            "updated_at": utcnow(),
        }
        with transaction(self._engine) as connection:
            upsert(connection, schema.deliveries, ["event_id", "sink"], values)

    def backlog(self, types: Sequence[EventType]) -> Backlog:
        outbox, tried = schema.outbox, schema.deliveries
        waits = or_(tried.c.state.is_(None), tried.c.state == DeliveryState.WAITING)
        waiting = select(func.count()).select_from(outbox.outerjoin(tried, _same_event())).where(_of(types), waits)
        dead = select(func.count()).select_from(tried).where(tried.c.state == DeliveryState.DEAD)
        error = select(tried.c.error).where(tried.c.error.is_not(None)).order_by(tried.c.updated_at.desc()).limit(1)
        with reading(self._engine) as connection:
            return Backlog(
                waiting=connection.execute(waiting).scalar_one(),
                dead=connection.execute(dead).scalar_one(),
                last_error=connection.execute(error).scalar(),
            )

    def prune(self, *, older_than_s: float, kafka: bool, webhook: Sequence[EventType]) -> int:
        """Delete old events that every configured sink is done with (delivered or given up); returns how many."""
        outbox, tried = schema.outbox, schema.deliveries
        ended = select(tried.c.event_id).where(tried.c.state != DeliveryState.WAITING)
        through: list[ColumnElement[bool]] = [outbox.c.created_at < utcnow() - timedelta(seconds=older_than_s)]
        if kafka:
            through.append(outbox.c.published_at.is_not(None))
        if webhook:
            through.append(or_(~_of(webhook), outbox.c.event_id.in_(ended)))
        with transaction(self._engine) as connection:
            gone = connection.execute(select(outbox.c.event_id).where(*through).limit(PRUNE)).scalars().all()
            connection.execute(delete(tried).where(tried.c.event_id.in_(gone)))
            connection.execute(delete(outbox).where(outbox.c.event_id.in_(gone)))
        return len(gone)


def _same_event() -> ColumnElement[bool]:
    outbox, tried = schema.outbox, schema.deliveries
    return and_(tried.c.event_id == outbox.c.event_id, tried.c.sink == WEBHOOK)


def _of(types: Sequence[EventType]) -> ColumnElement[bool]:
    kind: ColumnElement[str] = schema.outbox.c.event["type"].as_string()
    return kind.in_([str(one) for one in types])
