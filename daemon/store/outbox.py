"""What became of each event at each further sink beside Kafka, and when events may go.

Kafka's own delivery is `published_at` of the event (`store.control`); a sink here has a row for each event that it was
tried with. So no sink waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, Engine, and_, delete, func, or_, select

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


class Outbox:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
