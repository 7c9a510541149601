"""Which lessons a run may choose from: read so that no crowd of new reports hides another sender's older ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select, text, true, union_all

from daemon.records import ReportState
from daemon.store import schema

NEVER = schema.reports.c.flagged["not_trainable"].as_string()
"""The reason why a report can never be trained on; NULL for most."""
CAN_BE_TRAINED = case((NEVER.is_(None), 1), else_=0) != 0
"""Without a reason. PostgreSQL takes IS NULL of an expression for rare, and would sort all reports for a list."""
TRAINABLE = (ReportState.LESSON, ReportState.RECURRING, ReportState.IMPROVED, ReportState.RESOLVED)
LOOKUP_SIZE = 1000


Tenants = Sequence[str | None]
"""Tenants whose reports count; None stands for reports without a tenant."""


def of_tenants(tenants: Tenants | None, column: ColumnElement[Any] = schema.reports.c.tenant) -> ColumnElement[bool]:
    """`tenants` None: all reports. `column`: the tenant."""
    if tenants is None:
        return true()
    named = column.in_([one for one in tenants if one is not None])
    return or_(named, column.is_(None)) if None in tenants else named


def of_other_tenants(tenants: Tenants) -> ColumnElement[bool]:
    """The reports that `of_tenants` leaves out."""
    column = schema.reports.c.tenant
    other = column.not_in([one for one in tenants if one is not None])
    return and_(column.is_not(None), other) if None in tenants else or_(other, column.is_(None))


def with_lesson(*conditions: ColumnElement[bool]) -> Select[int]:
    """Counts the reports that could be trained on by their state."""
    table, lessons = schema.reports, schema.lessons
    joined = lessons.join(table, table.c.id == lessons.c.report_id)
    return select(func.count()).select_from(joined).where(table.c.state.in_(TRAINABLE), *conditions)


def a_candidate(tenants: Tenants | None = None) -> Select[str]:
    """The id of any report that a run may use."""
    table, lessons = schema.reports, schema.lessons
    joined = table.join(lessons, lessons.c.report_id == table.c.id)
    usable = text(schema.TRAINABLE), CAN_BE_TRAINED, of_tenants(tenants)
    return select(table.c.id).select_from(joined).where(*usable).limit(1)


def newest(connection: Connection, *, limit: int, tenants: Tenants | None = None) -> Sequence[Any]:
    """Rows of reports of the tenants with their lessons, to look at: unresolved ones first, then newest first."""
    table, lessons = schema.reports, schema.lessons
    some = [
        select(table.c.id, table.c.received_at)
        .join(lessons, lessons.c.report_id == table.c.id)
        .where(table.c.state == state, CAN_BE_TRAINED, of_tenants(tenants))
        .order_by(table.c.received_at.desc(), table.c.id)  # each state by itself: an index has them in this order
        .limit(limit)
        .subquery()
        for state in TRAINABLE
    ]
    ids = union_all(*(select(one.c.id) for one in some))
    resolved = case((table.c.state == ReportState.RESOLVED, 1), else_=0)
    query = select(table, lessons).join(lessons, lessons.c.report_id == table.c.id).where(table.c.id.in_(ids))
    return connection.execute(query.order_by(resolved, table.c.received_at.desc(), table.c.id).limit(limit)).all()


def candidates(
    connection: Connection, *, limit: int, per_reporter: int, tenants: Tenants | None = None
) -> Sequence[Any]:
    """Rows of reports of the tenants with their lessons: unresolved ones first, then newest first.

    Of more than `limit`, principals have equally many, as far as they have them; inside a principal each reporter, and
    at most `per_reporter` of each. Of too many reporters, those with the newest and with the oldest reports count.
    """
    table, lessons = schema.reports, schema.lessons
    ranked = connection.execute(_ranked(per_reporter, tenants)).scalars().all()
    chosen: list[Any] = []
    for start in range(0, len(ranked), LOOKUP_SIZE):
        ids = ranked[start : start + LOOKUP_SIZE]
        query = (
            select(table, lessons)
            .join(lessons, lessons.c.report_id == table.c.id)
            .where(table.c.id.in_(ids), NEVER.is_(None))
        )
        found = {row.id: row for row in connection.execute(query)}
        chosen += [found[one] for one in ids if one in found]
        if len(chosen) >= limit:
            break
    first = sorted(chosen[:limit], key=lambda row: row.id)
    first.sort(key=lambda row: row.received_at, reverse=True)
    return sorted(first, key=lambda row: row.state == ReportState.RESOLVED)


def _ranked(per_reporter: int, tenants: Tenants | None) -> Select[str]:
    """Ids in fair order, by an index that holds all these columns."""
    table = schema.reports
    resolved = case((table.c.state == ReportState.RESOLVED, 1), else_=0).label("resolved")
    sender = table.c.principal, table.c.reporter
    nth = func.row_number().over(partition_by=sender, order_by=(resolved, table.c.received_at.desc(), table.c.id))
    of_reporter = (
        select(table.c.id, table.c.principal, table.c.received_at, resolved, nth.label("nth"))
        .where(text(schema.TRAINABLE), of_tenants(tenants))
        .subquery()
    )
    one = of_reporter.c
    newest = func.row_number().over(
        partition_by=one.principal, order_by=(one.resolved, one.nth, one.received_at.desc(), one.id)
    )
    oldest = func.row_number().over(
        partition_by=one.principal, order_by=(one.resolved, one.nth, one.received_at, one.id)
    )
    of_principal = (
        select(one.id, one.principal, newest.label("newest"), oldest.label("oldest"))
        .where(one.nth <= per_reporter)
        .subquery()
    )
    two = of_principal.c
    nearest_end = case((two.newest <= two.oldest, two.newest), else_=two.oldest)
    place = func.row_number().over(partition_by=two.principal, order_by=(nearest_end, two.id))
    return select(two.id).order_by(place, two.principal)
