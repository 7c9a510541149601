"""Requests, errors and flagged answers of each generation, summed over servers and their restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, case, func, select

from daemon.records import INDUCED, ReportState, utcnow
from daemon.store import schema, serving_tables
from daemon.store.counts import report_counts
from daemon.store.engine import Lock, insert, reading, serialise, transaction, upsert

STEP = timedelta(minutes=5)
"""Traffic is kept in steps of this length: 288 rows a day of a generation that answers."""
FORGET_AFTER = timedelta(days=30)
"""A server process not seen for this long counts as ended."""
COUNTS = ("requests", "errors", "guidance_refusals")
UNTRUSTED = (ReportState.DUPLICATE, ReportState.QUARANTINED)
"""Reports that count in no rate: the same answer flagged again, and reports in review."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One server process's counts for one generation; they only grow while the process lives."""

    epoch: str
    generation: int
    requests: int
    errors: int
    guidance_refusals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Increase:
    """What is new of one or more processes: requests, errors, and requests refused because of the guidance."""

    requests: int = 0
    errors: int = 0
    guidance_refusals: int = 0

    def __bool__(self) -> bool:
        return bool(self.requests or self.errors or self.guidance_refusals)

    def __add__(self, other: Increase) -> Increase:
        return Increase(**{name: getattr(self, name) + getattr(other, name) for name in COUNTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficTally:
    """A generation's requests and errors, and the number of reports on its answers."""

    requests: int
    errors: int
    flagged: int

    @property
    def flagged_ratio(self) -> float:
        """Reports per request; 0 without requests."""
        return self.flagged / self.requests if self.requests else 0.0


class Traffic:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, observed: Sequence[Observed], *, at: datetime | None = None) -> Increase:
        """Add the increase since these processes were last seen, and return its sum.

        A repeated call, even from another daemon, adds nothing: the same transaction stores the counts already added.
        Generations unknown to the store are ignored.
        """
        at = at or utcnow()
        with transaction(self._engine, makes_work=False) as connection:
            serialise(connection, Lock.TRAFFIC)
            known = set(connection.execute(select(schema.adapters.c.generation)).scalars())
            new = sum((_add(connection, one, at) for one in observed if one.generation in known), Increase())
            connection.execute(
                serving_tables.traffic_seen.delete().where(serving_tables.traffic_seen.c.seen_at < at - FORGET_AFTER)
            )
        return new

    def tally(
        self,
        generation: int,
        *,
        since: datetime | None = None,
        errors_per_step: int | None = None,
    ) -> TrafficTally:
        """Sum up a generation's traffic: all of it, or from the step that contains `since`.

        Args:
            errors_per_step: The maximum number of errors counted per step; None: no maximum.
        """
        since = None if since is None else step_of(since)
        table, reports = serving_tables.traffic, schema.reports
        errors_counted = _at_most(errors_per_step, table.c.errors)
        answered = select(func.coalesce(func.sum(table.c.requests), 0), func.coalesce(func.sum(errors_counted), 0))
        answered = answered.where(table.c.generation == generation, *_from(table.c.since, since))
        name = select(schema.adapters.c.name).where(schema.adapters.c.generation == generation).scalar_subquery()
        if since is None:
            counts = report_counts.c
            real = counts.state.not_in(UNTRUSTED), counts.induced.is_(False)
            flags = select(func.coalesce(func.sum(counts.change), 0)).where(counts.model == name, *real)
        else:
            found = reports.c.model == name, reports.c.received_at >= since, *on_real_traffic()
            flags = select(func.count()).select_from(reports).where(*found)
        with reading(self._engine) as connection:
            requests, errors = connection.execute(answered).one()
            flagged = connection.execute(flags).scalar_one()
        return TrafficTally(requests=int(requests), errors=int(errors), flagged=int(flagged))

    def guidance_refusals(self, *, since: datetime) -> int:
        """The requests refused because of the guidance, of all generations, from the step that contains `since`."""
        table = serving_tables.traffic
        query = select(func.coalesce(func.sum(table.c.guidance_refusals), 0)).where(table.c.since >= step_of(since))
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def window(self, generation: int, *, requests: int) -> datetime | None:
        """The start of the window of a generation's latest `requests` (or of all, if fewer); None without requests.

        Each voter counts once per window, so only windows with equal traffic can be compared: over a longer window more
        flags come from the same people.
        """
        table = serving_tables.traffic
        query = select(table.c.since, table.c.requests).where(table.c.generation == generation)
        with reading(self._engine) as connection:
            begins: datetime | None = None
            for row in connection.execute(query.order_by(table.c.since.desc())):
                begins, requests = row.since, requests - row.requests
                if requests <= 0:
                    break
        return begins


def on_real_traffic() -> list[ColumnElement[bool]]:
    """Reports on a generation's real traffic; no user saw an induced answer."""
    reports = schema.reports
    return [reports.c.state.not_in(UNTRUSTED), reports.c.principal != INDUCED]


def _from(column: Any, since: datetime | None) -> list[ColumnElement[bool]]:
    return [] if since is None else [column >= since]


def _at_most(most: int | None, counted: ColumnElement[int]) -> ColumnElement[int]:
    return counted if most is None else case((counted > most, most), else_=counted)


def _add(connection: Connection, one: Observed, at: datetime) -> Increase:
    seen, table = serving_tables.traffic_seen, serving_tables.traffic
    key = and_(seen.c.epoch == one.epoch, seen.c.generation == one.generation)
    row = connection.execute(select(*(seen.c[name] for name in COUNTS)).where(key)).one_or_none()
    before = dict(zip(COUNTS, row or (0, 0, 0), strict=True))
    new = {name: max(0, getattr(one, name) - before[name]) for name in COUNTS}
    counted = {name: before[name] + new[name] for name in COUNTS}
    place = {"epoch": one.epoch, "generation": one.generation}
    upsert(connection, seen, list(place), {**place, **counted, "seen_at": at})
    if increase := Increase(**new):
        added = insert(connection, table).values(generation=one.generation, since=step_of(at), **new)
        total = {name: table.c[name] + added.excluded[name] for name in COUNTS}
        connection.execute(added.on_conflict_do_update(index_elements=["generation", "since"], set_=total))
    return increase


def step_of(moment: datetime) -> datetime:
    """The start of the step that contains this time."""
    size = STEP.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // size * size, tz=UTC)
