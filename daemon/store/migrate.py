"""Bring a database to the newest schema."""

from __future__ import annotations

from sqlalchemy import Engine, select

from daemon.records import ADAPTER_TRANSITIONS, REPORT_TRANSITIONS, RUN_TRANSITIONS
from daemon.store import schema


def migrate(engine: Engine) -> None:
    schema.metadata.create_all(engine)
    rows = [
        {"machine": machine, "old": old.value, "new": new.value}
        for machine, table in (
            ("reports", REPORT_TRANSITIONS),
            ("adapters", ADAPTER_TRANSITIONS),
            ("runs", RUN_TRANSITIONS),
        )
        for old, news in table.items()
        for new in news
    ]
    with engine.begin() as connection:
        if connection.execute(select(schema.transitions)).first() is None:
            connection.execute(schema.transitions.insert(), rows)
