"""Which reports have what a step needs (`daemon.trust`), and how many lessons are new to the next run."""

from __future__ import annotations

from sqlalchemy import ColumnElement, FromClause, Select, and_, exists, func, or_, select

from daemon.records import Evidence, ReportState, RunState
from daemon.store import schema
from daemon.store.candidates import NEVER, Tenants, of_tenants
from daemon.trust.policy import Enough


def has(enough: Enough) -> ColumnElement[bool]:
    table = schema.reports
    trusted = and_(table.c.principal.in_(enough.principals), table.c.evidence != Evidence.CONTRADICTED)
    return or_(table.c.evidence.in_(enough.evidence), trusted)


def new_lessons(enough: Enough | None, tenants: Tenants | None = None) -> Select[int]:
    """Counts the lessons of the tenants since the start of the last run that did not fail.

    A bare thumbs-down does not count before a review: nothing says what is wrong with its answer.

    With `enough`, a lesson counts from the time at which it, or a person's review, reaches what a run needs. Whose
    reports support each other is not asked here: such lessons are trained on with the others.
    """
    table, lessons, runs = schema.reports, schema.lessons, schema.runs
    last_run = select(func.max(runs.c.created_at)).where(runs.c.state != RunState.FAILED).scalar_subquery()
    came = [lessons.c.created_at] if enough is None else [lessons.c.created_at, table.c.evidence_at, _REVIEWED_AT]
    query = (
        select(func.count())
        .select_from(lessons.join(table, table.c.id == lessons.c.report_id))
        .where(
            table.c.state.in_([ReportState.LESSON, ReportState.RECURRING, ReportState.IMPROVED]),
            NEVER.is_(None),
            or_(_explained(), _REVIEWED_AT.is_not(None)),
            of_tenants(tenants),
            or_(last_run.is_(None), *(time > last_run for time in came)),
        )
    )
    return query if enough is None else query.where(or_(has(enough), _REVIEWED_AT.is_not(None)))


def _explained() -> ColumnElement[bool]:
    """Whether the report, or another one of its answer, says something about the mistake."""
    table = schema.reports
    others = table.alias()
    named = table.c.flagged["category"].as_string().is_not(None)
    same = exists(
        select(others.c.id).where(others.c.content_key == table.c.content_key, others.c.duplicate_of == table.c.id)
    )
    return or_(named, _says_something(table), same)


def _says_something(table: FromClause) -> ColumnElement[bool]:
    texts = ("reason", "follow_up", "correction", "checks")
    return or_(*(func.coalesce(table.c.flagged[name].as_string(), "") != "" for name in texts))


_REVIEWED_AT = schema.lessons.c.reviewed_at
