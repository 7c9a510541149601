"""Which old reports nothing acts on any more, so that the archive may take them.

A report goes with its duplicates, or stays. It stays while a recent run, a generation that may still go live, an open
report of its cluster, a person's last review or an erasure refers to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select, tuple_

from daemon.records import BASE_GENERATION, AdapterState, ReportState, RunState
from daemon.store import schema
from daemon.store.archive_tables import restored
from daemon.store.decision_table import decisions
from daemon.store.duplicates import batches
from daemon.store.erasures import erased_lessons

CLOSED = (ReportState.RESOLVED, ReportState.NOT_REPRODUCED, ReportState.BURIED)
OPEN = (
    ReportState.QUEUED,
    ReportState.REFLECTING,
    ReportState.LESSON,
    ReportState.RECURRING,
    ReportState.IMPROVED,
    ReportState.QUARANTINED,
)
_MAY_GO_LIVE = (
    AdapterState.TRAINING,
    AdapterState.CANDIDATE,
    AdapterState.SHADOW,
    AdapterState.CANARY,
    AdapterState.LIVE,
)
_COLUMNS = ("id", "state", "duplicate_of", "model", "cluster_id", "resolved_generation", "received_at", "updated_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a pass over the closed reports came."""

    state: ReportState
    received_at: datetime
    id: str


def page(connection: Connection, *, before: datetime, after: Place | None, limit: int) -> Sequence[Any]:
    """The next reports that are closed and no duplicates; of one state, oldest first. Empty: the pass is over."""
    table = schema.reports
    started = 0 if after is None else CLOSED.index(after.state)
    for state in CLOSED[started:]:
        query = select(*(table.c[name] for name in _COLUMNS)).where(
            table.c.state == state, table.c.received_at < before, table.c.duplicate_of.is_(None)
        )
        if after is not None and state is after.state:
            query = query.where(tuple_(table.c.received_at, table.c.id) > (after.received_at, after.id))
        found = connection.execute(query.order_by(table.c.received_at, table.c.id).limit(limit)).all()
        if found:
            return found
    return ()


def of_ids(connection: Connection, ids: Collection[str]) -> list[Any]:
    """The rows of those of the reports that are closed and no duplicates, as `page` has them."""
    table = schema.reports
    query = select(*(table.c[name] for name in _COLUMNS)).where(
        table.c.state.in_(CLOSED), table.c.duplicate_of.is_(None)
    )
    return [row for some in batches(sorted(ids)) for row in connection.execute(query.where(table.c.id.in_(some)))]


def groups(connection: Connection, found: Sequence[Any], *, before: datetime) -> dict[str, list[str]]:
    """Those of the rows that nothing needs, each with the ids of its duplicates."""
    members: dict[str, list[Any]] = {row.id: [row] for row in found}
    for row in _duplicates_of(connection, list(members)):
        members[row.duplicate_of].append(row)
    needed = _Needed(connection, [row for rows in members.values() for row in rows], before=before)
    return {
        report_id: [row.id for row in rows[1:]]
        for report_id, rows in members.items()
        if not any(map(needed.needs, rows)) and all(row.state == ReportState.DUPLICATE for row in rows[1:])
    }


def is_preparing(connection: Connection) -> bool:
    """Whether a run chooses its reports now."""
    runs = schema.runs
    return connection.execute(select(runs.c.id).where(runs.c.state == RunState.PREPARING)).first() is not None


class _Needed:
    """What refers to some reports."""

    def __init__(self, connection: Connection, found: Sequence[Any], *, before: datetime) -> None:
        self._before = before
        ids = [row.id for row in found]
        self._ids = _referred(connection, ids, before) | {
            row.duplicate_of for row in _duplicates_of(connection, [row.id for row in found if row.duplicate_of])
        }
        self._clusters = _open_clusters(connection, {row.cluster_id for row in found} - {None})
        self._oldest, self._names = _generations(connection)

    def needs(self, row: Any) -> bool:
        """Whether the report must stay in the database."""
        return (
            row.id in self._ids
            or row.cluster_id in self._clusters
            or row.model in self._names
            or max(row.received_at, row.updated_at) >= self._before
            # a rollback would open it again
            or (self._oldest is not None and (row.resolved_generation or 0) >= self._oldest)
        )


def _duplicates_of(connection: Connection, ids: Sequence[str]) -> list[Any]:
    table = schema.reports
    query = select(*(table.c[name] for name in _COLUMNS)).order_by(table.c.received_at, table.c.id)
    found = (connection.execute(query.where(table.c.duplicate_of.in_(some))) for some in batches(ids))
    return [row for rows in found for row in rows]


def _referred(connection: Connection, ids: Sequence[str], before: datetime) -> set[str]:
    """Those that a review, an erasure, or a run refers to; or that came back from the archive since `before`."""
    items, runs, adapters = schema.run_items, schema.runs, schema.adapters
    in_use = exists().where(adapters.c.run_id == runs.c.id, or_(adapters.c.state.in_(_MAY_GO_LIVE), _may_return()))
    recent = or_(runs.c.finished_at.is_(None), runs.c.created_at >= before, in_use)
    used = select(items.c.report_id).join(runs, runs.c.id == items.c.run_id).where(recent)
    asks: dict[Any, Select[Any]] = {
        decisions.c.report_id: select(decisions.c.report_id),
        erased_lessons.c.report_id: select(erased_lessons.c.report_id),
        restored.c.report_id: select(restored.c.report_id).where(restored.c.at >= before),
        items.c.report_id: used,
    }
    found: set[str] = set()
    for some in batches(ids):
        for column, ask in asks.items():
            found |= set(connection.execute(ask.where(column.in_(some))).scalars())
    return found


def _open_clusters(connection: Connection, cluster_ids: Collection[int]) -> set[int]:
    table = schema.reports
    query = select(table.c.cluster_id).where(table.c.state.concat("").in_(OPEN)).distinct()
    some_open = (query.where(table.c.cluster_id.in_(some)) for some in batches(sorted(cluster_ids)))
    return {one for ask in some_open for one in connection.execute(ask).scalars()}


def _generations(connection: Connection) -> tuple[int | None, frozenset[str]]:
    """The oldest trained generation that is live or may be again, and the names of those whose flags are compared."""
    table = schema.adapters
    trained = table.c.generation != BASE_GENERATION
    oldest = select(func.min(table.c.generation)).where(trained, or_(table.c.state == AdapterState.LIVE, _may_return()))
    compared = or_(table.c.state.in_(_MAY_GO_LIVE), table.c.generation == _previous())
    names = connection.execute(select(table.c.name).where(compared)).scalars()
    return connection.execute(oldest).scalar(), frozenset(names)


def _may_return() -> ColumnElement[bool]:
    """By a rollback, or after `erratad approve`."""
    table = schema.adapters
    return and_(table.c.state.in_([AdapterState.RETIRED, AdapterState.ROLLED_BACK]), table.c.files_removed_at.is_(None))


def _previous() -> Any:
    """The generation before the live one, whose rates the watch compares."""
    table, live = schema.adapters, schema.adapters.alias("live")
    newest = select(live.c.generation).where(live.c.state == AdapterState.LIVE).scalar_subquery()
    return (
        select(func.max(table.c.generation))
        .where(table.c.state == AdapterState.RETIRED, table.c.generation < newest)
        .scalar_subquery()
    )
