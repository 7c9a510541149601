"""Several reports of one answer: one stands for the answer, and the others, its duplicates, add their parts to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, FromClause, Select, func, literal_column, select, union_all, update

from connectors.messages import Checks, Severity
from daemon.parts import Part
from daemon.records import Report, ReportState, utcnow
from daemon.store import rows, schema

T = TypeVar("T")
WITH_ANALYSIS = (ReportState.LESSON, ReportState.RECURRING, ReportState.IMPROVED)
"""States in which the next run may learn from the report's analysis."""
IN_PLAY = (
    ReportState.QUEUED,
    ReportState.REFLECTING,
    ReportState.RESOLVED,
    ReportState.NOT_REPRODUCED,
    *WITH_ANALYSIS,
)
"""States in which a report stands for its answer, so that a further report of it becomes a duplicate."""
MAX_PARTS = 100
"""The newest duplicates of a report that are combined with it; older ones beyond that only hear of the outcome."""
MAX_RANKED = 200
"""Of more duplicates, the newest of each principal are looked at, so that an answer may have any number of reports."""
EVERY_ONE = 20
"""Up to this number of duplicates each one may start a new analysis; after that the 32nd, the 64th, and so on."""
LOOKUP_SIZE = 1000
_RANKED = tuple(schema.reports.c[name] for name in ("id", "duplicate_of", "principal", "reporter", "received_at"))


def with_others(connection: Connection, found: Sequence[Any]) -> list[Report]:
    """The reports of these rows, each with the parts of its duplicates."""
    parts: dict[str, tuple[Part, ...]] = {}
    for some in batches(found):
        ids = [row.id for row in some]
        crowded = connection.execute(_crowded(ids)).scalars().all()
        parts |= _parts(connection, _duplicates(set(ids).difference(crowded), *_RANKED))
        for report_id in crowded:
            parts |= _parts(connection, _newest(connection, report_id))
    return [rows.report(row, parts.get(row.id, ())) for row in found]


def _crowded(report_ids: Sequence[str]) -> Select[str]:
    """Those with so many duplicates that not all are looked at."""
    table, others = schema.reports, schema.reports.alias("others")
    last: Select[Any] = (
        select(literal_column("1")).where(others.c.duplicate_of == table.c.id).offset(MAX_RANKED).limit(1)
    )
    return select(table.c.id).where(table.c.id.in_(report_ids), last.scalar_subquery().is_not(None))


def _newest(connection: Connection, report_id: str) -> Select[Any]:
    """The newest `MAX_RANKED` duplicates of each principal: one look into the index for each."""
    table = schema.reports
    least = select(func.min(table.c.principal).label("principal")).where(table.c.duplicate_of == report_id)
    found = least.cte("found", recursive=True)
    following = least.where(table.c.principal > found.c.principal).correlate(found).scalar_subquery()
    found = found.union_all(select(following).where(found.c.principal.is_not(None)))
    principals = connection.execute(select(found.c.principal).where(found.c.principal.is_not(None))).scalars()
    by_principal = (
        _duplicates([report_id], *_RANKED)
        .where(table.c.principal == principal)
        .order_by(table.c.received_at.desc(), table.c.id.desc())
        .limit(MAX_RANKED)
        .subquery()
        for principal in principals
    )
    return select(union_all(*(select(one) for one in by_principal)).subquery())


def _parts(connection: Connection, duplicates: Select[Any]) -> dict[str, tuple[Part, ...]]:
    """At most `MAX_PARTS` of each report, oldest first: equally many of each principal, and of its reporters."""
    table = schema.reports
    found: dict[str, list[Part]] = {}
    columns = (
        *(table.c[name] for name in ("id", "duplicate_of", "principal", "reporter", "received_at")),
        *(table.c.flagged[name].as_string().label(name) for name in ("reason", "follow_up", "correction", "severity")),
        table.c.flagged["checks"].label("checks"),
    )
    chosen = _fair_parts(duplicates)
    query = select(*columns).join(chosen, chosen.c.id == table.c.id).where(chosen.c.place <= MAX_PARTS)
    for row in connection.execute(query.order_by(table.c.received_at, table.c.id)):
        found.setdefault(row.duplicate_of, []).append(
            Part(
                report_id=row.id,
                principal=row.principal,
                reporter=row.reporter,
                received_at=row.received_at,
                reason=row.reason or "",
                correction=row.correction,
                checks=None if row.checks is None else Checks.model_validate(row.checks),
                severity=Severity(row.severity or Severity.MEDIUM),
                follow_up=row.follow_up,
            )
        )
    return {report_id: tuple(parts) for report_id, parts in found.items()}


def _fair_parts(duplicates: Select[Any]) -> FromClause:
    """The ids of the duplicates with their places: the newest of each sender first, principals in turn."""
    names = [column.name for column in _RANKED]
    ranked: FromClause = duplicates.subquery()
    order: tuple[str, ...] = ()
    for place, group in (
        ("nth", ("duplicate_of", "principal", "reporter")),
        ("turn", names[1:3]),
        ("place", names[1:2]),
    ):
        by = (*(ranked.c[name] for name in order), ranked.c.received_at.desc(), ranked.c.id.desc())
        number = func.row_number().over(partition_by=[ranked.c[name] for name in group], order_by=by)
        ranked = select(*(ranked.c[name] for name in names), number.label(place)).subquery()
        order = (place,)
    return ranked


def _duplicates(report_ids: Collection[str], *columns: Any) -> Select[Any]:
    table = schema.reports
    return select(*columns).where(table.c.duplicate_of.in_(report_ids), table.c.state != ReportState.ERASED)


def duplicates_of(connection: Connection, report_ids: Sequence[str]) -> list[str]:
    """The ids of the duplicates of these reports: their reporters hear of the outcome, too."""
    column = schema.reports.c.id
    return [
        one
        for some in batches(report_ids)
        for one in connection.execute(_duplicates(some, column).order_by(column)).scalars()
    ]


def analyse_again(connection: Connection, new: Mapping[str, Sequence[str]]) -> None:
    """Put the reports back into the queue to which the new duplicates add something.

    Args:
        new: Ids of new duplicates, by the report that they are a duplicate of.

    A person's review stays: only a person replaces it. The number of analyses is limited, see `EVERY_ONE`.
    """
    if not new:
        return
    table, lessons = schema.reports, schema.lessons
    analysed = select(table).where(
        table.c.id.in_(new),
        table.c.state.in_(WITH_ANALYSIS),
        ~select(lessons.c.report_id)
        .where(lessons.c.report_id == table.c.id, lessons.c.reviewed_at.is_not(None))
        .exists(),
    )
    found = connection.execute(analysed.order_by(table.c.id)).all()
    if not found:
        return
    counts = tally(connection, [row.id for row in found])
    reports = with_others(connection, found)
    requeue(connection, [one.id for one in reports if _says_more(one, set(new[one.id]), counts.get(one.id, 0))])


def tally(connection: Connection, report_ids: Sequence[str]) -> dict[str, int]:
    """The number of duplicates of each report that has some."""
    column = schema.reports.c.duplicate_of
    counted = _duplicates(report_ids, column, func.count()).group_by(column)
    return {row[0]: row[1] for row in connection.execute(counted)}


def is_considered(count: int, new: int) -> bool:
    """Whether one of the last `new` of `count` duplicates may start a new analysis."""
    return any(number <= EVERY_ONE or number.bit_count() == 1 for number in range(count - new + 1, count + 1))


def _says_more(report: Report, new: set[str], count: int) -> bool:
    if not is_considered(count, len(new)):
        return False
    known = [part for part in report.parts if part.report_id not in new]
    return any(part.adds_to(known) for part in report.others if part.report_id in new)


def requeue(connection: Connection, report_ids: Sequence[str], **values: Any) -> None:
    """Have these reports analysed again."""
    table = schema.reports
    connection.execute(
        update(table)
        .where(table.c.id.in_(report_ids))
        .values(
            state=ReportState.QUEUED,
            state_reason="analysed again: the reports of this answer changed",
            attempts=0,
            next_attempt_at=None,
            updated_at=utcnow(),
            **values,
        )
    )


def take_out(connection: Connection, duplicate: Any) -> bool:
    """Remove the part of a duplicate (its row) that is erased from the analysis of its answer.

    The lesson may repeat its words, so it is deleted, and the answer is analysed again from the parts that are left.
    Nothing happens, and the result is False, if the other reports say the same.
    """
    table, lessons = schema.reports, schema.lessons
    row = connection.execute(select(table).where(table.c.id == duplicate.duplicate_of).with_for_update()).one()
    report = with_others(connection, [row])[0]
    left = [part for part in report.parts if part.report_id != duplicate.id]
    gone = [part for part in report.others if part.report_id == duplicate.id]
    if gone and not gone[0].adds_to(left):
        return False
    connection.execute(lessons.delete().where(lessons.c.report_id == report.id))
    if report.state in {ReportState.REFLECTING, ReportState.NOT_REPRODUCED, *WITH_ANALYSIS}:
        requeue(connection, [report.id], lease_owner=None, lease_until=None)
    return True


def batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """For statements with one parameter per value."""
    return (values[start : start + LOOKUP_SIZE] for start in range(0, len(values), LOOKUP_SIZE))
