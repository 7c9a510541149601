"""Figures by day (UTC). The database sums them over indexes of time: no report is read for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Date, Engine, Integer, Table, and_, cast, func, select

from daemon.records import ReportState, utcnow
from daemon.store import schema, serving_tables
from daemon.store.counts import flag_days
from daemon.store.engine import insert, reading, transaction
from daemon.store.schema import metadata

days = Table(
    "days",
    metadata,
    Column("day", Date, primary_key=True),
    Column("most_queued", Integer, nullable=False),
)
"""What no other table keeps of a day. A day on which no daemon ran has no row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCount:
    """A number of one day; `generation` where it is one generation's."""

    day: date
    count: float
    generation: int | None = None


class Trends:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def note_queue(self, queued: int, *, at: datetime | None = None) -> None:
        """Keep the longest queue of the day. A number that is no longer than the kept one writes nothing."""
        day = (at or utcnow()).date()
        with reading(self._engine) as connection:
            known = connection.execute(select(days.c.most_queued).where(days.c.day == day)).scalar()
        if known is not None and known >= queued:
            return
        with transaction(self._engine) as connection:
            row = insert(connection, days).values(day=day, most_queued=queued)
            longer = {"most_queued": row.excluded.most_queued}
            more = row.excluded.most_queued > days.c.most_queued
            connection.execute(row.on_conflict_do_update(index_elements=["day"], set_=longer, where=more))

    def queue(self, *, since: date) -> list[DayCount]:
        """The longest queue of each day."""
        query = select(days.c.day, days.c.most_queued).where(days.c.day >= since).order_by(days.c.day)
        with reading(self._engine) as connection:
            return [DayCount(day=row.day, count=row.most_queued) for row in connection.execute(query)]

    def requests(self, *, since: date) -> list[DayCount]:
        """The requests that each generation answered."""
        table = serving_tables.traffic
        return list(self._by_generation(table.c.since, since, func.sum(table.c.requests), table.c.generation))

    def flagged(self, *, since: date) -> list[DayCount]:
        """The reports on each generation's answers to users, as the watch counts them; of `KEPT_DAYS`."""
        adapters = schema.adapters
        count = func.sum(flag_days.c.change)
        query = (
            select(flag_days.c.day, adapters.c.generation, count.label("counted"))
            .join(adapters, adapters.c.name == flag_days.c.model)
            .where(flag_days.c.day >= since)
            .group_by(flag_days.c.day, adapters.c.generation)
            .having(count > 0)
            .order_by(flag_days.c.day, adapters.c.generation)
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
        return [DayCount(day=row.day, count=float(row.counted), generation=row.generation) for row in found]

    def fixed(self, *, since: date) -> list[DayCount]:
        """The reports that the promoted generations of each day were measured to fix."""
        retests, adapters = schema.retests, schema.adapters
        conditions = (
            retests.c.run_id == adapters.c.run_id,
            adapters.c.promoted_at.is_not(None),
            retests.c.outcome == ReportState.RESOLVED,
        )
        return list(
            self._by_generation(adapters.c.promoted_at, since, func.count(), adapters.c.generation, *conditions)
        )

    def drift(self, *, since: date) -> list[DayCount]:
        """The rise of the cost of ordinary answers, in bits per token, that each candidate was measured with."""
        table = schema.verdicts
        rise = table.c.figures["bits_per_token_rise"].as_float()
        return list(
            self._by_generation(table.c.decided_at, since, func.max(rise), table.c.generation, rise.is_not(None))
        )

    def _by_generation(
        self, at: Any, since: date, counted: ColumnElement[Any], generation: Any, *conditions: ColumnElement[bool]
    ) -> Iterator[DayCount]:
        start = datetime.combine(since, time(), tzinfo=UTC)
        with reading(self._engine) as connection:
            day = _day_of(connection, at)
            query = select(day.label("day"), generation.label("generation"), counted.label("counted"))
            query = query.where(and_(at >= start, *conditions)).group_by(day, generation).order_by(day, generation)
            found = connection.execute(query).all()
        for row in found:
            yield DayCount(day=_date(row.day), count=float(row.counted), generation=row.generation)


def _day_of(connection: Connection, at: Any) -> ColumnElement[Any]:
    """The day in UTC: SQLite stores UTC, PostgreSQL a moment."""
    if connection.dialect.name == "sqlite":
        return func.date(at)
    return cast(func.timezone("UTC", at), Date)


def _date(day: date | str) -> date:
    return day if isinstance(day, date) else date.fromisoformat(day)
