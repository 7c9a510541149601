"""Each person's last review, with what it replaced, so that it can be undone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, Connection, ForeignKey, Index, String, Table

from daemon.store.columns import UtcDateTime
from daemon.store.engine import upsert
from daemon.store.schema import metadata

decisions = Table(
    "decisions",
    metadata,
    Column("actor", String(200), primary_key=True),
    Column("report_id", String(200), ForeignKey("reports.id"), nullable=False),
    Column("decision", String(20), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("after", String(20), nullable=False),
    Column("before", JSON, nullable=False),
    Index("ix_decisions_report", "report_id"),
)
"""`after` is the report's state; `before` holds its state, the reason of it, and the columns of its lesson."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    report_id: str
    decision: str
    """"accept", "correct" or "reject"."""
    at: datetime


def remember(
    connection: Connection,
    actor: str,
    report_id: str,
    decision: str,
    before: Mapping[str, Any],
    *,
    after: str,
    at: datetime,
) -> None:
    """Keep this decision in the place of the person's one before."""
    values = {"report_id": report_id, "decision": decision, "at": at, "after": after, "before": before}
    upsert(connection, decisions, ["actor"], {"actor": actor, **values})


def forget(connection: Connection, report_ids: Collection[str]) -> None:
    """Before these reports, or their texts, are deleted."""
    connection.execute(decisions.delete().where(decisions.c.report_id.in_(report_ids)))
