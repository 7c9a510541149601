"""Originals of redacted reports, encrypted. They exist only where `privacy.keep_original` is on."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Column, Connection, Engine, ForeignKey, LargeBinary, String, Table, select

from daemon.errors import NotFoundError
from daemon.records import utcnow
from daemon.store.audit import record_audit
from daemon.store.columns import UtcDateTime
from daemon.store.engine import transaction
from daemon.store.schema import metadata

originals = Table(
    "originals",
    metadata,
    Column("report_id", String(200), ForeignKey("reports.id"), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("kept_at", UtcDateTime, nullable=False),
)


class Originals:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, report_id: str, *, actor: str, reason: str) -> bytes:
        """The encrypted original. Every reading is in the audit log.

        Raises:
            NotFoundError: None is kept: nothing was redacted, it is erased, or `privacy.keep_original` was off.
        """
        with transaction(self._engine) as connection:
            query = select(originals.c.sealed).where(originals.c.report_id == report_id)
            sealed: bytes | None = connection.execute(query).scalar()
            if sealed is None:
                raise NotFoundError(f"no original of report {report_id!r} is kept (privacy.keep_original)")
            record_audit(connection, actor=actor, action="read_original", subject=report_id, reason=reason)
            return sealed


def keep_originals(connection: Connection, sealed: Mapping[str, bytes]) -> None:
    """In the transaction that stores the reports."""
    if sealed:
        now = utcnow()
        values = [{"report_id": one, "sealed": content, "kept_at": now} for one, content in sealed.items()]
        connection.execute(originals.insert(), values)


def erase_original(connection: Connection, report_id: str) -> None:
    connection.execute(originals.delete().where(originals.c.report_id == report_id))
