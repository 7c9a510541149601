"""Lessons whose reports stay open after a promotion: the live generation analyses them anew, once.

The report keeps its state and its lesson meanwhile. A lease says who works on it; whatever changes the report's state
ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, func, or_, select, update

from daemon.errors import LeaseLostError
from daemon.parts import Analysis
from daemon.records import Evidence, Lesson, Report
from daemon.store import rows, schema
from daemon.store.candidates import NEVER
from daemon.store.duplicates import WITH_ANALYSIS, with_others
from daemon.store.engine import database_time, reading, transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """An open report and its lesson, held by a worker until the lease ends."""

    report: Report
    lesson: Lesson
    owner: str
    until: datetime


class Anew:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, *, owner: str, limit: int, lease_s: float, live: int) -> list[Renewal]:
        """Up to `limit` open reports of past runs that were last analysed before generation `live`; oldest first."""
        table, lessons = schema.reports, schema.lessons
        with reading(self._engine) as connection:  # a read first, so that an idle worker never waits for a writer
            if connection.execute(select(table.c.id).where(*_due(connection, live)).limit(1)).first() is None:
                return []
        with transaction(self._engine) as connection:
            query = select(table.c.id).where(*_due(connection, live)).order_by(table.c.received_at, table.c.id)
            ids = connection.execute(query.limit(limit).with_for_update(skip_locked=True)).scalars().all()
            until = database_time(connection) + timedelta(seconds=lease_s)
            held = update(table).where(table.c.id.in_(ids)).values(lease_owner=owner, lease_until=until)
            connection.execute(held)
            both = select(table, lessons).join(lessons, lessons.c.report_id == table.c.id).where(table.c.id.in_(ids))
            found = connection.execute(both.order_by(table.c.received_at, table.c.id)).all()
            reports = with_others(connection, found)
            return [
                Renewal(report=report, lesson=rows.lesson(row), owner=owner, until=until)
                for report, row in zip(reports, found, strict=True)
            ]

    def complete(self, claim: Renewal, lesson: Lesson) -> None:
        """Store the lesson, which may have the old analysis, and end the lease.

        Raises:
            LeaseLostError: Another worker, a person or a new report was faster.
        """
        with transaction(self._engine) as connection:
            _end_lease(connection, claim, until=None)
            table = schema.lessons
            values = {
                "analysis": lesson.analysis,
                "analyst": lesson.analyst,
                "template": lesson.template,
                "generation": lesson.generation,
                "analyses": rows.analyses_value(lesson.analyses),
            }
            unreviewed = (table.c.report_id == claim.report.id, table.c.reviewed_at.is_(None))
            connection.execute(update(table).where(*unreviewed).values(values))

    def put_back(self, claim: Renewal, *, at: datetime) -> None:
        """Give the report up until this time.

        Raises:
            LeaseLostError: Another worker, a person or a new report was faster.
        """
        with transaction(self._engine) as connection:
            _end_lease(connection, claim, until=at)

    def written(self, report_ids: Sequence[str], *, before: datetime) -> dict[str, tuple[Analysis, ...]]:
        """The analyses of these reports that were current at a time, by report id."""
        table = schema.lessons
        with reading(self._engine) as connection:
            found = connection.execute(select(table).where(table.c.report_id.in_(report_ids))).all()
        histories = {
            row.report_id: [one for one in rows.history(rows.lesson(row)) if one.at <= before] for row in found
        }
        return {
            report_id: tuple(one for one in past if one.at == max(other.at for other in past))
            for report_id, past in histories.items()
            if past
        }


def _due(connection: Connection, live: int) -> tuple[ColumnElement[bool], ...]:
    table, lessons, items = schema.reports, schema.lessons, schema.run_items
    older = select(lessons.c.report_id).where(
        lessons.c.report_id == table.c.id,
        lessons.c.reviewed_at.is_(None),
        func.coalesce(lessons.c.generation, 0) < live,
    )
    return (
        table.c.state.in_(WITH_ANALYSIS),
        table.c.evidence != Evidence.CONTRADICTED,
        NEVER.is_(None),
        or_(table.c.lease_until.is_(None), table.c.lease_until <= database_time(connection)),
        exists(older),
        exists(select(items.c.report_id).where(items.c.report_id == table.c.id)),
    )


def _end_lease(connection: Connection, claim: Renewal, *, until: datetime | None) -> None:
    table = schema.reports
    own = and_(
        table.c.id == claim.report.id,
        table.c.state.in_(WITH_ANALYSIS),
        table.c.lease_owner == claim.owner,
        table.c.lease_until == claim.until,
    )
    values: dict[str, Any] = {"lease_owner": None, "lease_until": until}
    if not connection.execute(update(table).where(own).values(values)).rowcount:
        raise LeaseLostError(f"report {claim.report.id}: the lease of {claim.owner} is over; the result is dropped")
