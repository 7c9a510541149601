"""Which reports have what a step needs (`daemon.trust`), and how many lessons are new to the next run."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, FromClause, Select, and_, exists, func, or_, select, union

from daemon.records import Evidence, ReportState, RunState
from daemon.store import schema
from daemon.store.candidates import NEVER, Tenants, of_tenants
from daemon.store.counts import up_to
from daemon.trust.policy import ANNOTATED, Enough


def has(enough: Enough) -> ColumnElement[bool]:
    table = schema.reports
    trusted = and_(table.c.principal.in_(enough.principals), table.c.evidence != Evidence.CONTRADICTED)
    if (models := enough.models) is not None:
        generation = table.c.model.startswith(f"{models.alias}-g", autoescape=True)
        named = or_(table.c.model.in_([models.alias, models.base]), generation)
        trusted = and_(trusted, or_(named, table.c.principal.in_(ANNOTATED)))
    return or_(table.c.evidence.in_(enough.evidence), trusted)


def last_run_at() -> Select[datetime]:
    """The start of the last run that did not fail."""
    runs = schema.runs
    return select(func.max(runs.c.created_at)).where(runs.c.state != RunState.FAILED)


def new_lessons(
    enough: Enough | None, tenants: Tenants | None, last_run: datetime | None, *, at_most: int
) -> Select[int]:
    """Counts the lessons of the tenants since the start of the last run that did not fail, up to a number.

    A bare thumbs-down does not count before a review: nothing says what is wrong with its answer.

    With `enough`, a lesson counts from the time at which it, or a person's review, reaches what a run needs. Whose
    reports support each other is not asked here: such lessons are trained on with the others.
    """
    table, lessons = schema.reports, schema.lessons
    usable = (
        select(table.c.id)
        .select_from(lessons.join(table, table.c.id == lessons.c.report_id))
        .where(
            table.c.state.concat("").in_([ReportState.LESSON, ReportState.RECURRING, ReportState.IMPROVED]),
            NEVER.is_(None),
            or_(_explained(), _REVIEWED_AT.is_not(None)),
            of_tenants(tenants),
        )
    )
    if enough is not None:
        usable = usable.where(or_(has(enough), _REVIEWED_AT.is_not(None)))
    if last_run is None:
        return up_to(usable, at_most)
    # one index for each way in which a lesson becomes new; a lesson that is new in several counts once
    times = [lessons.c.created_at] if enough is None else [lessons.c.created_at, table.c.evidence_at, _REVIEWED_AT]
    ways = (select(usable.where(time > last_run).limit(at_most).subquery().c.id) for time in times)
    return up_to(select(union(*ways).subquery().c.id), at_most)


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
