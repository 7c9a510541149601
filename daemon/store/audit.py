"""The audit log: who did what, and why."""

from __future__ import annotations

from sqlalchemy import Connection

from daemon.records import utcnow
from daemon.store import schema


def record_audit(connection: Connection, *, actor: str, action: str, subject: str, reason: str) -> None:
    connection.execute(
        schema.audit.insert().values(at=utcnow(), actor=actor, action=action, subject=subject, reason=reason)
    )
