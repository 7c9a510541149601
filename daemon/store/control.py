"""What steers the daemon: operators' intents, pauses, leader leases, stage heartbeats, the outbox and the audit log."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from connectors.messages import Event, EventType
from daemon.errors import NotFoundError
from daemon.records import AuditEntry, Intent, IntentKind, IntentState, utcnow
from daemon.store import schema
from daemon.store.engine import transaction

ALL_STAGES = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    stage: str
    actor: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a stage said last, and when it last made a step."""

    name: str
    owner: str
    last_step_at: datetime
    sentence: str


def emit(connection: Connection, kind: EventType, subject: str, data: Mapping[str, Any]) -> None:
    """Put an event into the outbox, in the transaction of the change that it tells of."""
    event = Event(id=uuid.uuid4().hex, type=kind, occurred_at=utcnow(), subject=subject, data=dict(data))
    connection.execute(schema.outbox.insert().values(event_id=event.id, event=event.model_dump(mode="json")))


def record_audit(connection: Connection, *, actor: str, action: str, subject: str, reason: str) -> None:
    connection.execute(
        schema.audit.insert().values(at=utcnow(), actor=actor, action=action, subject=subject, reason=reason)
    )


def upsert(connection: Connection, table: Any, keys: Sequence[str], values: Mapping[str, Any]) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**values)
    others = {key: statement.excluded[key] for key in values if key not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=others))


class Control:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- intents ---

    def request(self, kind: IntentKind, *, actor: str, reason: str, target_generation: int | None = None) -> Intent:
        """Queue an operator's wish; the stage that owns it carries it out and writes the outcome."""
        with transaction(self._engine) as connection:
            intent_id = connection.execute(
                schema.intents.insert()
                .values(
                    kind=kind,
                    state=IntentState.PENDING,
                    target_generation=target_generation,
                    actor=actor,
                    reason=reason,
                    created_at=utcnow(),
                )
                .returning(schema.intents.c.id)
            ).scalar_one()
            record_audit(connection, actor=actor, action=kind, subject=str(target_generation or "next"), reason=reason)
            return self._intent(connection, intent_id)

    def intent(self, intent_id: int) -> Intent:
        with transaction(self._engine) as connection:
            return self._intent(connection, intent_id)

    def pending(self, *kinds: IntentKind) -> Intent | None:
        """The oldest wish of these kinds that waits."""
        table = schema.intents
        query = (
            select(table.c.id)
            .where(table.c.state == IntentState.PENDING, table.c.kind.in_(kinds))
            .order_by(table.c.id)
            .limit(1)
        )
        with transaction(self._engine) as connection:
            intent_id = connection.execute(query).scalar()
            return None if intent_id is None else self._intent(connection, intent_id)

    def finish(self, intent_id: int, state: IntentState, outcome: str) -> None:
        table = schema.intents
        with transaction(self._engine) as connection:
            connection.execute(
                update(table)
                .where(table.c.id == intent_id, table.c.state == IntentState.PENDING)
                .values(state=state, outcome=outcome, finished_at=utcnow())
            )

    def _intent(self, connection: Connection, intent_id: int) -> Intent:
        row = connection.execute(select(schema.intents).where(schema.intents.c.id == intent_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"no intent {intent_id}")
        return Intent(
            id=row.id,
            kind=IntentKind(row.kind),
            state=IntentState(row.state),
            actor=row.actor,
            reason=row.reason,
            created_at=row.created_at,
            target_generation=row.target_generation,
            outcome=row.outcome,
        )

    # --- pauses ---

    def pause(self, stage: str, *, actor: str, reason: str) -> None:
        """Pause one stage, or `all`; running steps end, new ones do not start."""
        with transaction(self._engine) as connection:
            upsert(
                connection,
                schema.pauses,
                ["stage"],
                {"stage": stage, "actor": actor, "reason": reason, "at": utcnow()},
            )
            record_audit(connection, actor=actor, action="pause", subject=stage, reason=reason)

    def resume(self, stage: str, *, actor: str, reason: str) -> bool:
        """Lift a pause; False when there was none. `all` lifts every pause."""
        table = schema.pauses
        query = table.delete() if stage == ALL_STAGES else table.delete().where(table.c.stage == stage)
        with transaction(self._engine) as connection:
            lifted = connection.execute(query).rowcount > 0
            if lifted:
                record_audit(connection, actor=actor, action="resume", subject=stage, reason=reason)
        return lifted

    def pauses(self) -> list[Pause]:
        with transaction(self._engine) as connection:
            rows = connection.execute(select(schema.pauses).order_by(schema.pauses.c.stage)).all()
        return [Pause(stage=row.stage, actor=row.actor, reason=row.reason, at=row.at) for row in rows]

    def paused(self, stage: str) -> Pause | None:
        return next((pause for pause in self.pauses() if pause.stage in {stage, ALL_STAGES}), None)

    # --- leader leases and heartbeats ---

    def lead(self, name: str, *, owner: str, ttl_s: float) -> bool:
        """Take or renew the named leadership; True while `owner` holds it (one holder at a time)."""
        now = utcnow()
        table = schema.leases
        values = {"name": name, "owner": owner, "until": now + timedelta(seconds=ttl_s)}
        with transaction(self._engine) as connection:
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            connection.execute(
                insert(table)
                .values(**values)
                .on_conflict_do_update(
                    index_elements=["name"],
                    set_={"owner": owner, "until": values["until"]},
                    where=or_(table.c.owner == owner, table.c.until <= now),
                )
            )
            return connection.execute(select(table.c.owner).where(table.c.name == name)).scalar() == owner

    def abdicate(self, name: str, *, owner: str) -> None:
        table = schema.leases
        with transaction(self._engine) as connection:
            connection.execute(table.delete().where(table.c.name == name, table.c.owner == owner))

    def beat(self, stage: str, *, owner: str, sentence: str) -> None:
        with transaction(self._engine) as connection:
            upsert(
                connection,
                schema.stages,
                ["name", "owner"],
                {"name": stage, "owner": owner, "last_step_at": utcnow(), "sentence": sentence},
            )

    def heartbeats(self, *, max_age_s: float = 3600.0) -> list[Heartbeat]:
        table = schema.stages
        query = (
            select(table)
            .where(table.c.last_step_at > utcnow() - timedelta(seconds=max_age_s))
            .order_by(table.c.name, table.c.owner)
        )
        with transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        return [
            Heartbeat(name=row.name, owner=row.owner, last_step_at=row.last_step_at, sentence=row.sentence)
            for row in rows
        ]

    # --- outbox and audit ---

    def unpublished(self, *, limit: int = 100) -> list[Event]:
        """Events that no one has acknowledged yet, oldest first."""
        table = schema.outbox
        query = select(table.c.event).where(table.c.published_at.is_(None)).order_by(table.c.sequence).limit(limit)
        with transaction(self._engine) as connection:
            return [Event.model_validate(event) for event in connection.execute(query).scalars()]

    def count_unpublished(self) -> int:
        table = schema.outbox
        query = select(func.count()).select_from(table).where(table.c.published_at.is_(None))
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar_one()

    def mark_published(self, event_ids: Sequence[str]) -> None:
        table = schema.outbox
        with transaction(self._engine) as connection:
            connection.execute(update(table).where(table.c.event_id.in_(event_ids)).values(published_at=utcnow()))

    def audit(self, *, limit: int = 100) -> list[AuditEntry]:
        """Newest first."""
        table = schema.audit
        with transaction(self._engine) as connection:
            rows = connection.execute(select(table).order_by(table.c.sequence.desc()).limit(limit)).all()
        return [
            AuditEntry(at=row.at, actor=row.actor, action=row.action, subject=row.subject, reason=row.reason)
            for row in rows
        ]
