"""How many messages, and bytes of them, each principal has stored in the last 24 hours.

Counted per hour, so a message counts for 23 to 24 hours. Erasing or deleting a report gives nothing back.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Column, Connection, Integer, PrimaryKeyConstraint, String, Table, select

from daemon.config.sources import Limits
from daemon.records import MAX_NUMBER
from daemon.store.columns import UtcDateTime
from daemon.store.engine import upsert
from daemon.store.schema import metadata

WINDOW = timedelta(days=1)
SPARE_SHARE = 0.5
"""Reports above their reporter's limit may fill only this share of the principal's quota: the rest is for others."""

usage = Table(
    "usage",
    metadata,
    Column("principal", String(200), nullable=False),
    Column("hour", UtcDateTime, nullable=False),
    Column("reports", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    PrimaryKeyConstraint("principal", "hour"),
)

LimitsOf = Callable[[str], Limits]
"""The limits of a principal."""


def only_per_reporter(cap: int) -> LimitsOf:
    """Limits that bound each reporter, and no principal."""
    limits = Limits(reports=MAX_NUMBER, size_bytes=sys.maxsize, reports_per_reporter=cap)
    return lambda _principal: limits


@dataclass(slots=True)
class Used:
    """What one principal stored in some hours. It is mutable: one is counted up per message."""

    reports: int = 0
    size_bytes: int = 0

    def count(self, reports: int, size_bytes: int) -> None:
        self.reports += reports
        self.size_bytes += size_bytes


class Quotas:
    """The quotas of the principals of one batch. Batches run one at a time (`Lock.INTAKE`)."""

    def __init__(self, connection: Connection, principals: Iterable[str], *, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self._hour = now.replace(minute=0, second=0, microsecond=0)
        self._used: dict[str, Used] = defaultdict(Used)
        self._this_hour: dict[str, Used] = defaultdict(Used)
        self._changed: set[str] = set()
        query = select(usage).where(usage.c.principal.in_(set(principals)), usage.c.hour > now - WINDOW)
        for row in connection.execute(query):
            self._used[row.principal].count(row.reports, row.size_bytes)
            if row.hour == self._hour:
                self._this_hour[row.principal].count(row.reports, row.size_bytes)
        self._known = frozenset(self._this_hour)

    def take(self, principal: str, size_bytes: int, limits: Limits, *, is_spare: bool, reports: int = 1) -> bool:
        """Count one message, if the quota has room for it.

        Args:
            is_spare: It is above its reporter's limit.
            reports: 0 if it is counted already, and only its size is new.
        """
        share = SPARE_SHARE if is_spare else 1
        used = self._used[principal]
        if used.reports + reports > limits.reports * share or used.size_bytes + size_bytes > limits.size_bytes * share:
            return False
        used.count(reports, size_bytes)
        self._this_hour[principal].count(reports, size_bytes)
        self._changed.add(principal)
        return True

    def save(self) -> None:
        for principal in sorted(self._changed):
            now = self._this_hour[principal]
            values = {"principal": principal, "hour": self._hour, "reports": now.reports, "size_bytes": now.size_bytes}
            upsert(self._connection, usage, ["principal", "hour"], values)
        if self._changed - self._known:  # a new hour: those that no longer count can go
            self._connection.execute(usage.delete().where(usage.c.hour <= self._now - WINDOW))
