"""Counts of reports that are kept, so that nobody counts all reports: the database itself adds each change to them."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Date,
    Engine,
    Index,
    Integer,
    Select,
    String,
    Table,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from daemon.records import Evidence, ReportState, utcnow
from daemon.store import schema
from daemon.store.columns import OneOf
from daemon.store.engine import reading, transaction

report_counts = Table(
    "report_counts",
    schema.metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("state", OneOf(ReportState), nullable=False),
    Column("evidence", OneOf(Evidence), nullable=False),
    Column("model", String(200), nullable=False),
    Column("induced", Boolean, nullable=False),
    Column("change", Integer, nullable=False),
)
"""Changes of the number of reports, appended by triggers; their sum is the number."""

flag_days = Table(
    "flag_days",
    schema.metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("day", Date, nullable=False),
    Column("model", String(200), nullable=False),
    Column("change", Integer, nullable=False),
    Index("ix_flag_days_day", "day"),
)
"""Likewise the reports on real traffic (`daemon.store.traffic`), by the day (UTC) on which they came."""

MAX_COUNTED = 10_000
"""Where a count has no kept number, it ends here."""
FOLD_FROM = 1_000
"""Changes that may wait to be added up."""
FOLDED_AT_ONCE = 5_000
KEPT_DAYS = 60
"""Days of which flagged answers are counted."""


class Counts:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def fold(self) -> None:
        """Add up the changes: a row for each kind of report takes the place of many. Two daemons do not disturb it."""
        self._forget(utcnow().date() - timedelta(days=KEPT_DAYS))
        for table in (report_counts, flag_days):
            self._add_up(table)

    def _forget(self, before: date) -> None:
        old = flag_days.c.day < before
        with reading(self._engine) as connection:
            if connection.execute(select(flag_days.c.id).where(old).limit(1)).first() is None:
                return
        with transaction(self._engine) as connection:
            connection.execute(delete(flag_days).where(old))

    def _add_up(self, table: Table) -> None:
        counted = [column.name for column in table.columns if column.name not in {"id", "change"}]
        while True:
            with reading(self._engine) as connection:
                if connection.execute(select(func.count()).select_from(table)).scalar_one() <= FOLD_FROM:
                    return
            with transaction(self._engine) as connection:
                some = select(table.c.id).order_by(table.c.id).limit(FOLDED_AT_ONCE).with_for_update(skip_locked=True)
                gone = connection.execute(delete(table).where(table.c.id.in_(some)).returning(table))
                sums: Counter[tuple[Any, ...]] = Counter()
                folded = 0
                for row in gone:
                    sums[tuple(getattr(row, name) for name in counted)] += row.change
                    folded += 1
                kinds = [(kind, change) for kind, change in sums.items() if change]
                if kinds:
                    rows = [dict(zip(counted, kind, strict=True), change=change) for kind, change in kinds]
                    connection.execute(insert(table), rows)
            if 2 * len(kinds) > folded:  # nearly every kind of report has a single row
                return


def counted(by: ColumnElement[Any], *conditions: ColumnElement[bool]) -> Select[Any]:
    """The number of reports for each value of a column of `report_counts`."""
    return select(by, func.sum(report_counts.c.change)).where(*conditions).group_by(by)


def up_to(found: Select[Any], at_most: int = MAX_COUNTED) -> Select[int]:
    """The number of rows, at most this many: no more rows are looked at, and of these what an index says of them."""
    places: Select[Any] = found.with_only_columns(literal_column("1").label("one"), maintain_column_froms=True)
    return select(func.count()).select_from(places.limit(at_most).subquery())
