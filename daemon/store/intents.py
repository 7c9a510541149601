"""Requests of operators (or rules) to the daemon: queued as rows, completed once by the stage of their kind."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Engine, select, update

from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import Intent, IntentKind, IntentState, utcnow
from daemon.store import rows, schema
from daemon.store.audit import record_audit
from daemon.store.engine import commits_of, reading, transaction
from daemon.store.recent import Recent


class Intents:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._recent = Recent(self._pending, commits_of(engine))

    def request(self, kind: IntentKind, *, actor: str, reason: str, target_generation: int | None = None) -> Intent:
        """Queue an operator's request. The stage of its kind completes it and writes the outcome."""
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
            return _get(connection, intent_id)

    def get(self, intent_id: int) -> Intent:
        with reading(self._engine) as connection:
            return _get(connection, intent_id)

    def pending(self, *kinds: IntentKind, max_age_s: float = 0.0) -> Intent | None:
        """The oldest pending intent of these kinds, or None.

        `max_age_s`: how late an intent of another process may show. One of this process shows at once.
        """
        if max_age_s and not self._recent.get(max_age_s=max_age_s):
            return None
        return next((intent for intent in self._pending() if intent.kind in kinds), None)

    def _pending(self) -> list[Intent]:
        """Oldest first."""
        table = schema.intents
        query = select(table).where(table.c.state == IntentState.PENDING).order_by(table.c.id)
        with reading(self._engine) as connection:
            return [rows.record(Intent, row) for row in connection.execute(query)]

    def asked(self, kind: IntentKind, *, actor: str, since: datetime) -> Intent | None:
        """The actor's latest intent of this kind since then, in any state, or None."""
        table = schema.intents
        query = (
            select(table)
            .where(table.c.kind == kind, table.c.actor == actor, table.c.created_at >= since)
            .order_by(table.c.id.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else rows.record(Intent, row)

    def recent(self, *, limit: int = 20) -> list[Intent]:
        """Newest first."""
        query = select(schema.intents).order_by(schema.intents.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [rows.record(Intent, row) for row in connection.execute(query)]

    def finish(self, intent_id: int, state: IntentState, outcome: str) -> None:
        with transaction(self._engine) as connection:
            finish_intent(connection, intent_id, state, outcome)


def finish_intent(connection: Connection, intent_id: int, state: IntentState, outcome: str) -> bool:
    """End an intent, in the transaction that completes it if there is one. False if it has ended already."""
    table = schema.intents
    ended = connection.execute(
        update(table)
        .where(table.c.id == intent_id, table.c.state == IntentState.PENDING)
        .values(state=state, outcome=outcome, finished_at=utcnow())
    )
    return ended.rowcount > 0


def fulfil(connection: Connection, intent_id: int, outcome: str) -> None:
    """End an intent in the transaction that completes it, so that a crash cannot complete it twice.

    Raises:
        IllegalTransitionError: It has ended already. The caller must not commit the transaction.
    """
    if not finish_intent(connection, intent_id, IntentState.DONE, outcome):
        raise IllegalTransitionError(f"intent {intent_id} was carried out before; nothing is changed")


def _get(connection: Connection, intent_id: int) -> Intent:
    row = connection.execute(select(schema.intents).where(schema.intents.c.id == intent_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no intent {intent_id}")
    return rows.record(Intent, row)
