"""The audit log: every action with its actor and reason."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, func, select

from daemon.records import AuditEntry, utcnow
from daemon.store import rows, schema
from daemon.store.engine import reading, transaction


class Audit:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def record(self, *, actor: str, action: str, subject: str, reason: str) -> None:
        """Add an entry for what changes nothing else in the store."""
        with transaction(self._engine) as connection:
            record_audit(connection, actor=actor, action=action, subject=subject, reason=reason)

    def entries(self, *, limit: int = 100, offset: int = 0) -> list[AuditEntry]:
        """Newest first."""
        table = schema.audit
        query = select(table).order_by(table.c.sequence.desc()).limit(limit).offset(offset)
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        return [rows.record(AuditEntry, row) for row in found]

    def last(self) -> int:
        """The number of the newest entry; 0: there is none."""
        with reading(self._engine) as connection:
            number: int | None = connection.execute(select(func.max(schema.audit.c.sequence))).scalar()
        return number or 0


def record_audit(connection: Connection, *, actor: str, action: str, subject: str, reason: str) -> None:
    connection.execute(
        schema.audit.insert().values(at=utcnow(), actor=actor, action=action, subject=subject, reason=reason)
    )
