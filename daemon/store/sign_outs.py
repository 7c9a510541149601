"""Console sessions that ended before their time, in the database because daemons may share the session key."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Column, Engine, String, Table, select

from daemon.records import utcnow
from daemon.store.columns import UtcDateTime
from daemon.store.engine import reading, transaction, upsert
from daemon.store.schema import metadata

sign_outs = Table(
    "sign_outs",
    metadata,
    Column("session", String(40), primary_key=True),
    Column("until", UtcDateTime, nullable=False),
)
"""Sessions that are no longer accepted. After `until` their cookie is too old anyway."""


class SignOuts:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, session: str, *, until: datetime) -> None:
        """End a session. Sessions that are too old by now are forgotten."""
        with transaction(self._engine) as connection:
            connection.execute(sign_outs.delete().where(sign_outs.c.until < utcnow()))
            upsert(connection, sign_outs, ["session"], {"session": session, "until": until})

    def __contains__(self, session: str) -> bool:
        with reading(self._engine) as connection:
            found = connection.execute(select(sign_outs.c.session).where(sign_outs.c.session == session)).first()
        return found is not None
