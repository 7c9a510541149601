"""What steers the daemon: operators' intents, pauses, leader leases, stage heartbeats, the outbox and the audit log."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select, update

from connectors.messages import Event, EventType
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import AuditEntry, Intent, IntentKind, IntentState, utcnow
from daemon.store import rows, schema
from daemon.store.audit import record_audit
from daemon.store.engine import database_time, insert, reading, transaction, upsert

ALL_STAGES = "all"
DAEMON_SILENT_S = 30.0
"""Stages write a heartbeat every 5 s; when all of a daemon's are older than this, it seems to run no more."""


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


def finish_intent(connection: Connection, intent_id: int, state: IntentState, outcome: str) -> bool:
    """End a wish, where it can be in the transaction that fulfils it; False when it had ended before."""
    table = schema.intents
    ended = connection.execute(
        update(table)
        .where(table.c.id == intent_id, table.c.state == IntentState.PENDING)
        .values(state=state, outcome=outcome, finished_at=utcnow())
    )
    return ended.rowcount > 0


def fulfil(connection: Connection, intent_id: int, outcome: str) -> None:
    """End a wish in the transaction that carries it out, so that no crash has it carried out twice.

    Raises:
        IllegalTransitionError: when it had ended before; the transaction must not be committed then.
    """
    if not finish_intent(connection, intent_id, IntentState.DONE, outcome):
        raise IllegalTransitionError(f"intent {intent_id} was carried out before; nothing is changed")


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
            record_audit(
                connection,
                actor=actor,
                action=kind,
                subject="next" if target_generation is None else str(target_generation),
                reason=reason,
            )
            return self._intent(connection, intent_id)

    def intent(self, intent_id: int) -> Intent:
        with reading(self._engine) as connection:
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
        with reading(self._engine) as connection:
            intent_id = connection.execute(query).scalar()
            return None if intent_id is None else self._intent(connection, intent_id)

    def asked(self, kind: IntentKind, *, actor: str, since: datetime) -> Intent | None:
        """The latest wish of that kind that the actor had since that moment, whatever came of it."""
        table = schema.intents
        query = (
            select(table)
            .where(table.c.kind == kind, table.c.actor == actor, table.c.created_at >= since)
            .order_by(table.c.id.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else rows.intent(row)

    def intents(self, *, limit: int = 20) -> list[Intent]:
        """Newest first."""
        query = select(schema.intents).order_by(schema.intents.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [rows.intent(row) for row in connection.execute(query)]

    def finish(self, intent_id: int, state: IntentState, outcome: str) -> None:
        with transaction(self._engine) as connection:
            finish_intent(connection, intent_id, state, outcome)

    def _intent(self, connection: Connection, intent_id: int) -> Intent:
        row = connection.execute(select(schema.intents).where(schema.intents.c.id == intent_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"no intent {intent_id}")
        return rows.intent(row)

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
        with reading(self._engine) as connection:
            found = connection.execute(select(schema.pauses).order_by(schema.pauses.c.stage)).all()
        return [Pause(stage=row.stage, actor=row.actor, reason=row.reason, at=row.at) for row in found]

    def paused(self, stage: str) -> Pause | None:
        return next((pause for pause in self.pauses() if pause.stage in {stage, ALL_STAGES}), None)

    # --- leader leases and heartbeats ---

    def lead(self, name: str, *, owner: str, ttl_s: float) -> bool:
        """Take or renew the named leadership; True while `owner` holds it (one holder at a time)."""
        table = schema.leases
        with transaction(self._engine) as connection:
            now = database_time(connection)
            until = now + timedelta(seconds=ttl_s)
            connection.execute(
                insert(connection, table)
                .values(name=name, owner=owner, until=until)
                .on_conflict_do_update(
                    index_elements=["name"],
                    set_={"owner": owner, "until": until},
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
        """What each stage did last, but for those of daemons that have been silent since another one spoke."""
        table = schema.stages
        query = (
            select(table)
            .where(table.c.last_step_at > utcnow() - timedelta(seconds=max_age_s))
            .order_by(table.c.name, table.c.owner)
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        spoke: dict[str, datetime] = {}
        for row in found:
            spoke[row.owner] = max(row.last_step_at, spoke.get(row.owner, row.last_step_at))
        since = max(spoke.values(), default=utcnow()) - timedelta(seconds=DAEMON_SILENT_S)
        return [
            Heartbeat(name=row.name, owner=row.owner, last_step_at=row.last_step_at, sentence=row.sentence)
            for row in found
            if spoke[row.owner] >= since
        ]

    # --- outbox and audit ---

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

    def audit(self, *, limit: int = 100, offset: int = 0) -> list[AuditEntry]:
        """Newest first."""
        table = schema.audit
        query = select(table).order_by(table.c.sequence.desc()).limit(limit).offset(offset)
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        return [
            AuditEntry(at=row.at, actor=row.actor, action=row.action, subject=row.subject, reason=row.reason)
            for row in found
        ]
