"""Costs that do not grow with the store: kept counts of reports, and indexes for what is counted or listed.

Each change of a report appends to `report_counts`; a sum over a few thousand rows takes the place of a count of all
reports. Rows are only appended and deleted, so no writer waits for another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"

IN_QUEUE = sa.text("(state || '') IN ('queued', 'reflecting')")
COUNTED = ("state", "evidence", "model", "induced")
"""`induced` is no column of the reports: it says whether erratad itself asked for the answer."""


def upgrade() -> None:
    op.create_table(
        "report_counts",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("evidence", sa.String(length=20), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("induced", sa.Boolean(), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
    )
    op.execute(
        f"""
        INSERT INTO report_counts ({", ".join(COUNTED)}, change)
        SELECT state, evidence, model, principal = 'induced', count(*) FROM reports GROUP BY 1, 2, 3, 4"""  # noqa: S608 - literals
    )
    for statement in _postgres() if op.get_bind().dialect.name == "postgresql" else _sqlite():
        op.execute(statement)
    op.drop_index("ix_reports_queue", "reports")
    op.create_index("ix_reports_queue", "reports", ["received_at", "id"], **_where(IN_QUEUE))
    op.create_index("ix_reports_of_principal", "reports", ["principal", "received_at"])
    op.create_index("ix_reports_category", "reports", [sa.text("coalesce(guessed_kind, category)"), "received_at"])
    op.create_index("ix_reports_evidence_at", "reports", ["evidence_at"], **_where(sa.text("evidence_at IS NOT NULL")))
    op.create_index("ix_lessons_created_at", "lessons", ["created_at"])
    op.create_index("ix_lessons_reviewed_at", "lessons", ["reviewed_at"], **_where(sa.text("reviewed_at IS NOT NULL")))
    op.create_index(
        "ix_lessons_set_aside", "lessons", ["review_weight"], **_where(sa.text("review_weight IS NOT NULL"))
    )


def _where(condition: sa.TextClause) -> dict[str, Any]:
    return {"sqlite_where": condition, "postgresql_where": condition}


def _values(row: str, change: str) -> str:
    return f"{row}.state, {row}.evidence, {row}.model, {row}.principal = 'induced', {change}"


def _sqlite() -> Iterator[str]:
    into = f"INSERT INTO report_counts ({', '.join(COUNTED)}, change)"
    yield f"""
        CREATE TRIGGER reports_counted_new AFTER INSERT ON reports
        BEGIN {into} VALUES ({_values("NEW", "1")}); END"""  # noqa: S608 - every name is a literal of this file
    yield f"""
        CREATE TRIGGER reports_counted_gone AFTER DELETE ON reports
        BEGIN {into} VALUES ({_values("OLD", "-1")}); END"""
    yield f"""
        CREATE TRIGGER reports_counted_changed AFTER UPDATE OF state, evidence, model, principal ON reports
        WHEN OLD.state <> NEW.state OR OLD.evidence <> NEW.evidence OR OLD.model <> NEW.model
            OR OLD.principal <> NEW.principal
        BEGIN {into} VALUES ({_values("OLD", "-1")}), ({_values("NEW", "1")}); END"""


def _postgres() -> Iterator[str]:
    into = f"INSERT INTO report_counts ({', '.join(COUNTED)}, change)"
    yield f"""
        CREATE FUNCTION erratad_count_reports() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP IN ('DELETE', 'UPDATE') THEN
                {into} VALUES ({_values("OLD", "-1")});
            END IF;
            IF TG_OP IN ('INSERT', 'UPDATE') THEN
                {into} VALUES ({_values("NEW", "1")});
            END IF;
            RETURN NULL;
        END $$"""
    yield """
        CREATE TRIGGER reports_counted AFTER INSERT OR DELETE ON reports
        FOR EACH ROW EXECUTE FUNCTION erratad_count_reports()"""
    yield """
        CREATE TRIGGER reports_counted_changed AFTER UPDATE OF state, evidence, model, principal ON reports
        FOR EACH ROW WHEN (
            OLD.state <> NEW.state OR OLD.evidence <> NEW.evidence OR OLD.model <> NEW.model
            OR OLD.principal <> NEW.principal
        ) EXECUTE FUNCTION erratad_count_reports()"""
