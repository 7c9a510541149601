"""How much each generation answered, added up over servers and their restarts, and how much of it was flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, func, select

from daemon.records import ReportState, utcnow
from daemon.store import schema
from daemon.store.control import insert, upsert
from daemon.store.engine import Lock, reading, serialise, transaction

STEP = timedelta(minutes=5)
"""Traffic is kept in steps of this length: 288 rows a day of a generation that answers."""
FORGET_AFTER = timedelta(days=30)
"""A server process that was not seen for so long is taken as ended."""
UNTRUSTED = (ReportState.DUPLICATE, ReportState.QUARANTINED)
"""Reports that count for no rate: the same answer flagged again, and what waits for review."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one server process says of one generation; both counts only grow while the process lives."""

    epoch: str
    generation: int
    requests: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a generation answered, how much of it failed, and the reports that flag its answers."""

    requests: int
    errors: int
    flagged: int

    @property
    def flagged_per_1000(self) -> float:
        """0 while nothing was answered."""
        return 1000 * self.flagged / self.requests if self.requests else 0.0


class Traffic:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, observed: Sequence[Observed], *, at: datetime | None = None) -> int:
        """Count what is new since these processes were last seen; returns how many requests that were.

        Repeating a call, also from another daemon, adds nothing: how far a process was counted is kept in the same
        transaction. Generations that the store does not know are left out.
        """
        at = at or utcnow()
        with transaction(self._engine) as connection:
            serialise(connection, Lock.TRAFFIC)
            known = set(connection.execute(select(schema.adapters.c.generation)).scalars())
            new = sum(_add(connection, one, at) for one in observed if one.generation in known)
            connection.execute(schema.traffic_seen.delete().where(schema.traffic_seen.c.seen_at < at - FORGET_AFTER))
        return new

    def tally(
        self,
        generation: int,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        per_reporter: int | None = None,
    ) -> Tally:
        """Everything of a generation, or what came between two moments (in whole steps of traffic).

        Args:
            per_reporter: at most so many reports of one reporter count; None: all do.
        """
        table, reports = schema.traffic, schema.reports
        answered = select(func.coalesce(func.sum(table.c.requests), 0), func.coalesce(func.sum(table.c.errors), 0))
        answered = answered.where(table.c.generation == generation, *_between(table.c.since, since, until))
        by_reporter = (
            select(func.count().label("count"))
            .join(schema.adapters, schema.adapters.c.name == reports.c.model)
            .where(
                schema.adapters.c.generation == generation,
                reports.c.state.not_in(UNTRUSTED),
                *_between(reports.c.received_at, since, until),
            )
            .group_by(reports.c.reporter)
            .subquery()
        )
        counted: ColumnElement[int] = by_reporter.c.count
        if per_reporter is not None:
            counted = case((counted > per_reporter, per_reporter), else_=counted)
        with reading(self._engine) as connection:
            requests, errors = connection.execute(answered).one()
            flagged = connection.execute(select(func.coalesce(func.sum(counted), 0))).scalar_one()
        return Tally(requests=int(requests), errors=int(errors), flagged=int(flagged))


def _between(column: Any, since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    return [
        *([] if since is None else [column >= since]),
        *([] if until is None else [column < until]),
    ]


def _add(connection: Connection, one: Observed, at: datetime) -> int:
    seen, table = schema.traffic_seen, schema.traffic
    key = and_(seen.c.epoch == one.epoch, seen.c.generation == one.generation)
    before = connection.execute(select(seen.c.requests, seen.c.errors).where(key)).one_or_none() or (0, 0)
    requests, errors = max(0, one.requests - before[0]), max(0, one.errors - before[1])
    upsert(
        connection,
        seen,
        ["epoch", "generation"],
        {
            "epoch": one.epoch,
            "generation": one.generation,
            "requests": before[0] + requests,
            "errors": before[1] + errors,
            "seen_at": at,
        },
    )
    if requests or errors:
        row = insert(connection, table).values(
            generation=one.generation, since=step_of(at), requests=requests, errors=errors
        )
        added = {name: table.c[name] + row.excluded[name] for name in ("requests", "errors")}
        connection.execute(row.on_conflict_do_update(index_elements=["generation", "since"], set_=added))
    return requests


def step_of(moment: datetime) -> datetime:
    """The beginning of the step that a moment lies in."""
    size = STEP.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // size * size, tz=UTC)
