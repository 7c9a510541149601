"""Kept counts of flagged answers by day, and an index for the newest duplicates of each principal.

As with `report_counts`, each change of a report appends a row, and the daemon adds the rows up.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"

A_DUPLICATE = sa.text("duplicate_of IS NOT NULL")
CHANGED = ("state", "principal", "model", "received_at")
IS_CHANGED = " OR ".join(f"OLD.{name} <> NEW.{name}" for name in CHANGED)


def upgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "flag_days",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
    )
    op.execute(
        f"""
        INSERT INTO flag_days (day, model, change)
        SELECT {_day("reports", is_postgres=is_postgres)}, model, count(*) FROM reports
        WHERE {_counts("reports")} GROUP BY 1, 2"""  # noqa: S608 - every name is a literal of this file
    )
    op.create_index("ix_flag_days_day", "flag_days", ["day"])
    for statement in _postgres() if is_postgres else _sqlite():
        op.execute(statement)
    op.drop_index("ix_reports_duplicate_of", "reports")
    op.create_index(
        "ix_reports_duplicate_of",
        "reports",
        ["duplicate_of", "principal", "received_at"],
        sqlite_where=A_DUPLICATE,
        postgresql_where=A_DUPLICATE,
    )


def _day(row: str, *, is_postgres: bool) -> str:
    return f"({row}.received_at AT TIME ZONE 'UTC')::date" if is_postgres else f"date({row}.received_at)"


def _counts(row: str) -> str:
    return f"{row}.state NOT IN ('duplicate', 'quarantined') AND {row}.principal <> 'induced'"


def _add(row: str, change: str, *, is_postgres: bool) -> str:
    values = f"{_day(row, is_postgres=is_postgres)}, {row}.model, {change}"
    return f"INSERT INTO flag_days (day, model, change) SELECT {values} WHERE {_counts(row)};"


def _sqlite() -> Iterator[str]:
    less, more = (_add(row, change, is_postgres=False) for row, change in (("OLD", "-1"), ("NEW", "1")))
    yield f"CREATE TRIGGER reports_flagged_new AFTER INSERT ON reports BEGIN {more} END"
    yield f"CREATE TRIGGER reports_flagged_gone AFTER DELETE ON reports BEGIN {less} END"
    yield f"""
        CREATE TRIGGER reports_flagged_changed AFTER UPDATE OF {", ".join(CHANGED)} ON reports WHEN {IS_CHANGED}
        BEGIN {less} {more} END"""


def _postgres() -> Iterator[str]:
    less, more = (_add(row, change, is_postgres=True) for row, change in (("OLD", "-1"), ("NEW", "1")))
    yield f"""
        CREATE FUNCTION erratad_count_flags() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP IN ('DELETE', 'UPDATE') THEN {less} END IF;
            IF TG_OP IN ('INSERT', 'UPDATE') THEN {more} END IF;
            RETURN NULL;
        END $$"""
    yield """
        CREATE TRIGGER reports_flagged AFTER INSERT OR DELETE ON reports
        FOR EACH ROW EXECUTE FUNCTION erratad_count_flags()"""
    yield f"""
        CREATE TRIGGER reports_flagged_changed AFTER UPDATE OF {", ".join(CHANGED)} ON reports
        FOR EACH ROW WHEN ({IS_CHANGED}) EXECUTE FUNCTION erratad_count_flags()"""
