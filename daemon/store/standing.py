"""Which of several reports of one answer stands for it: not the first, but one of the side that most principals are on.

A side is a category: the report that stands for the answer gives it its category, and so its cluster. A report that
names no category is on no side: it yields to any that names one, and takes over from none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, func, select, update

from daemon.categories import NOT_NAMED
from daemon.records import Report, ReportState
from daemon.store import schema
from daemon.store.duplicates import (
    WITH_ANALYSIS,
    analyse_again,
    batches,
    duplicates_of,
    is_considered,
    requeue,
    tally,
    with_others,
)
from daemon.store.retests import try_again

MAX_HEIRS = 3
"""How often another report takes over from one that is given up. Then all other reports of the answer are, too."""
REPLACEABLE = (ReportState.QUEUED, *WITH_ANALYSIS)
"""States in which another report may take over. One that is being analysed is looked at when that ends."""
Sender: TypeAlias = tuple[str, str]


def came_in(connection: Connection, new: Mapping[str, Sequence[str]]) -> None:
    """New duplicates, by the report that stands for their answer: one of them may take over, or add to its analysis."""
    if not new:
        return
    _take_up_again(connection, new)
    taken_over = _let_heavier_take_over(connection, new)
    analyse_again(connection, {one: duplicates for one, duplicates in new.items() if one not in taken_over})


def _take_up_again(connection: Connection, new: Mapping[str, Sequence[str]]) -> None:
    """A mistake that was not reproduced and is reported again counts as seen again."""
    table = schema.reports
    aside = select(table.c.id).where(table.c.id.in_(new), table.c.state == ReportState.NOT_REPRODUCED)
    found = connection.execute(aside).scalars().all()
    counts = tally(connection, found)
    seen_again = [one for one in found if is_considered(counts.get(one, 0), len(new[one]))]
    try_again(connection, seen_again, because="reported again")


def _let_heavier_take_over(connection: Connection, new: Mapping[str, Sequence[str]]) -> set[str]:
    """Returns the reports that another one took over from. A report that a person reviewed stays."""
    table, lessons = schema.reports, schema.lessons
    reviewed = select(lessons.c.report_id).where(lessons.c.reviewed_at.is_not(None))
    query = select(table).where(table.c.id.in_(new), table.c.state.in_(REPLACEABLE), table.c.id.not_in(reviewed))
    found = connection.execute(query.order_by(table.c.id)).all()
    counts = tally(connection, [row.id for row in found])
    reports = with_others(connection, [row for row in found if is_considered(counts.get(row.id, 0), len(new[row.id]))])
    sides = _categories(connection, reports)
    taken_over = set()
    for report in reports:
        heir = _heir(report, sides)
        if heir is not None:
            taken_over.add(report.id)
            _take_over(connection, report.id, heir)
    return taken_over


def _categories(connection: Connection, reports: Iterable[Report]) -> dict[str, str]:
    table = schema.reports
    ids = [part.report_id for report in reports for part in report.parts]
    return {
        row.id: row.category
        for some in batches(ids)
        for row in connection.execute(select(table.c.id, table.c.category).where(table.c.id.in_(some)))
    }


def _heir(report: Report, categories: Mapping[str, str]) -> str | None:
    """The oldest report of the heaviest side, if it is heavier than the report's own."""
    sides: dict[str, set[Sender]] = defaultdict(set)
    oldest: dict[str, str] = {}
    for part in report.parts:
        category = categories[part.report_id]
        sides[category].add((part.principal, part.reporter))
        oldest.setdefault(category, part.report_id)
    own = categories[report.id]
    named = [side for side in sides if side not in {own, NOT_NAMED}]
    heavier = named if own == NOT_NAMED else [side for side in named if _outweighs(sides[side], sides[own])]
    if not heavier:
        return None
    best = max(heavier, key=lambda side: (len(_principals(sides[side])), len(sides[side])))
    return oldest[best]


def _outweighs(senders: set[Sender], others: set[Sender]) -> bool:
    """Principals count. Reporters, whose names are free, count only between the same principals."""
    principals, theirs = _principals(senders), _principals(others)
    return len(principals) > len(theirs) or (principals == theirs and len(senders) > len(others))


def _principals(senders: Iterable[Sender]) -> set[str]:
    return {principal for principal, _ in senders}


def _take_over(connection: Connection, report_id: str, heir: str) -> None:
    table, lessons = schema.reports, schema.lessons
    _pass_on(connection, report_id, heir)
    connection.execute(lessons.delete().where(lessons.c.report_id == report_id))
    reason = f"the same answer is report {heir}, whose category more senders give"
    values = {"state": ReportState.DUPLICATE, "duplicate_of": heir, "state_reason": reason}
    connection.execute(update(table).where(table.c.id == report_id).values(**values))


def hand_over(connection: Connection, report_id: str) -> None:
    """Let another report stand for the answer, because this one is erased, quarantined or given up.

    It is the oldest one of the heaviest side; a report that names a category goes before all that name none. After
    `MAX_HEIRS` that were given up, the others stay with the last.
    """
    if not duplicates_of(connection, [report_id]) or _given_up(connection, report_id) > MAX_HEIRS:
        return
    [report] = with_others(connection, connection.execute(_row(report_id)).all())
    categories = _categories(connection, [report])
    sides: dict[str, set[Sender]] = defaultdict(set)
    for part in report.others:
        sides[categories[part.report_id]].add((part.principal, part.reporter))
    if not report.others:
        return
    heir = max(
        report.others,
        key=lambda part: (
            categories[part.report_id] != NOT_NAMED,
            len(_principals(sides[categories[part.report_id]])),
            len(sides[categories[part.report_id]]),
            -part.received_at.timestamp(),
        ),
    )
    _pass_on(connection, report_id, heir.report_id)


def _row(report_id: str) -> Any:
    return select(schema.reports).where(schema.reports.c.id == report_id)


def _given_up(connection: Connection, report_id: str) -> int:
    """Reports that stood for the same answer and were given up."""
    table = schema.reports
    key = select(table.c.content_key).where(table.c.id == report_id).scalar_subquery()
    query = select(func.count()).where(
        table.c.content_key == key, table.c.state == ReportState.BURIED, table.c.duplicate_of.is_(None)
    )
    return connection.execute(query).scalar_one()


def _pass_on(connection: Connection, report_id: str, heir: str) -> None:
    """The heir is analysed, and the other duplicates become its own."""
    table = schema.reports
    others = [one for one in duplicates_of(connection, [report_id]) if one != heir]
    requeue(connection, [heir], duplicate_of=None)
    for some in batches(others):
        connection.execute(update(table).where(table.c.id.in_(some)).values(duplicate_of=heir))
