"""Which reports a listing shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    Text,
    and_,
    case,
    cast,
    func,
    or_,
    select,
    type_coerce,
    union_all,
)

from connectors.messages import Severity, storable
from daemon.records import Evidence, Report
from daemon.report_filter import ReportFilter, ShownEvidence, Sort
from daemon.store import schema
from daemon.store.counts import up_to
from daemon.store.search_index import Candidates, candidates, report_texts

MAX_FOUND = 1_000
"""Reports that one search finds, the newest ones; filters come before."""

CATEGORY = func.coalesce(type_coerce(schema.reports.c.guessed_kind, String), schema.reports.c.category)
"""As shown: only a report that names no category has a guess."""
_LIGHTEST_FIRST = {severity.value: place for place, severity in enumerate(Severity)}
_NEWEST = (schema.reports.c.received_at.desc(), schema.reports.c.id)
_ORDER: Mapping[Sort, tuple[ColumnElement[Any], ...]] = {
    Sort.NEWEST: _NEWEST,
    Sort.OLDEST: (schema.reports.c.received_at, schema.reports.c.id),
    Sort.CHANGED: (schema.reports.c.updated_at.desc(), schema.reports.c.id),
    Sort.SEVERITY: (case(_LIGHTEST_FIRST, value=schema.reports.c.severity, else_=-1).desc(), *_NEWEST),
}


def matching(connection: Connection, wanted: ReportFilter) -> Select[Any]:
    return select(schema.reports).where(*_conditions(connection, wanted)).order_by(*_ORDER[wanted.sort])


def count_of(connection: Connection, wanted: ReportFilter) -> Select[int]:
    return up_to(select(schema.reports.c.id).where(*_conditions(connection, wanted)))


def matching_after(connection: Connection, wanted: ReportFilter, last: Report | None) -> Select[Any]:
    """Newest first, those after the report `last`; None: from the first.

    A search finds all: of more than `MAX_FOUND`, it reads every text.
    """
    table, newest = schema.reports, replace(wanted, sort=Sort.NEWEST)
    found = _conditions(connection, newest)
    if wanted.search and connection.execute(count_of(connection, newest)).scalar_one() >= MAX_FOUND:
        found = [*_filters(wanted), contains(wanted.search)]
    query = select(table).where(*found).order_by(*_NEWEST)
    if last is None:
        return query
    same_time = and_(table.c.received_at == last.received_at, table.c.id > last.id)
    return query.where(or_(table.c.received_at < last.received_at, same_time))


def hits(
    connection: Connection, search: str, *filters: ColumnElement[bool], is_oldest_first: bool = False
) -> Select[str]:
    """The ids of the reports that hold a text and fit the filters: the newest `MAX_FOUND`, or the oldest.

    Those that the index names are compared with the text, and all that wait for the index.
    """
    table, texts = schema.reports, report_texts
    found = (*filters, contains(search))
    indexed = candidates(connection, storable(search))
    if indexed is None:
        order = table.c.received_at if is_oldest_first else table.c.received_at.desc()
        return select(select(table.c.id).where(*found).order_by(order).limit(MAX_FOUND).subquery().c.id)
    waiting = select(table.c.id).join(texts, texts.c.report_id == table.c.id)
    waiting = _first(
        waiting.where(texts.c.indexed_at.is_(None), *found), texts.c.number, is_oldest_first=is_oldest_first
    )
    named = None if is_oldest_first else _newest(connection, indexed[:-1], found)
    if named is None:
        named = _first(_named(indexed[-1], found), indexed[-1].number, is_oldest_first=is_oldest_first)
    return select(union_all(named, waiting).subquery().c.id)


def _named(indexed: Candidates, found: Sequence[ColumnElement[bool]]) -> Select[str]:
    table = schema.reports
    joined = indexed.source.join(table, table.c.id == indexed.report_id)
    return select(table.c.id).select_from(joined).where(indexed.may_hold, *found)


def _first(query: Select[str], number: ColumnElement[int], *, is_oldest_first: bool) -> Select[str]:
    return select(query.order_by(number if is_oldest_first else number.desc()).limit(MAX_FOUND).subquery().c.id)


def _newest(
    connection: Connection, some: Sequence[Candidates], found: Sequence[ColumnElement[bool]]
) -> Select[str] | None:
    """`MAX_FOUND` hits among the newest candidates, if there are so many."""
    for indexed in some:
        ids = connection.execute(_first(_named(indexed, found), indexed.number, is_oldest_first=False)).scalars().all()
        if len(ids) == MAX_FOUND:
            return select(schema.reports.c.id).where(schema.reports.c.id.in_(ids))
    return None


def _conditions(connection: Connection, wanted: ReportFilter) -> list[ColumnElement[bool]]:
    filters = _filters(wanted)
    if not wanted.search:
        return filters
    found = hits(connection, wanted.search, *filters, is_oldest_first=wanted.sort is Sort.OLDEST)
    return [schema.reports.c.id.in_(found)]


def _filters(wanted: ReportFilter) -> list[ColumnElement[bool]]:
    table = schema.reports
    equal = {
        table.c.state: wanted.state,
        CATEGORY: wanted.category,
        table.c.severity: wanted.severity,
        table.c.tenant: wanted.tenant,
        table.c.principal: wanted.principal,
        table.c.reporter: wanted.reporter,
    }
    found = [column == value for column, value in equal.items() if value is not None]
    if wanted.evidence is not None:
        found += _shown_as(ShownEvidence(wanted.evidence))
    if wanted.since is not None:
        found.append(table.c.received_at >= _start(wanted.since))
    if wanted.until is not None:
        found.append(table.c.received_at < _start(wanted.until) + timedelta(days=1))
    return found


def _shown_as(evidence: ShownEvidence) -> list[ColumnElement[bool]]:
    """The same distinction as `ShownEvidence.of`."""
    table = schema.reports
    match evidence:
        case ShownEvidence.UNCHECKED:
            return [table.c.evidence == Evidence.CLAIMED, table.c.evidence_at.is_(None)]
        case ShownEvidence.CLAIMED:
            return [table.c.evidence == Evidence.CLAIMED, table.c.evidence_at.is_not(None)]
        case _:
            return [table.c.evidence == Evidence(evidence.value)]


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def contains(search: str) -> ColumnElement[bool]:
    """Whether a part of an id, or of any text of the message, is `search`; case does not matter."""
    table, search = schema.reports, storable(search)
    as_stored = json.dumps(search)[1:-1]  # JSON escapes all characters outside ASCII
    return or_(
        table.c.id.icontains(search, autoescape=True),
        table.c.sent_id.icontains(search, autoescape=True),
        cast(table.c.flagged, Text).icontains(as_stored, autoescape=True),
    )


def every_category() -> Select[str]:
    """All categories in alphabetical order: from each, one look into the index for the next one."""
    least = func.min(CATEGORY)
    found = select(least.label("category")).cte("found", recursive=True)
    following = select(least).where(found.c.category < CATEGORY).correlate(found).scalar_subquery()
    found = found.union_all(select(following).where(found.c.category.is_not(None)))
    return select(found.c.category).where(found.c.category.is_not(None))
