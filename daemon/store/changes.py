"""What other processes have written: one cheap look finds whether it may be work for a stage of this one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, func, select

from daemon.store import schema
from daemon.store.commits import Commits
from daemon.store.counts import report_counts
from daemon.store.engine import commits_of, reading
from daemon.store.signal_table import signals

_GROWING = (schema.audit.c.sequence, report_counts.c.id, signals.c.received_at, schema.outbox.c.sequence)
"""Each grows with what makes work: operators' actions, reports and their states, messages to complete, events."""
_LATEST = select(*(select(func.max(column)).scalar_subquery() for column in _GROWING))


class Changes:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._latest: tuple[Any, ...] | None = None

    @property
    def commits(self) -> Commits:
        return commits_of(self._engine)

    def look(self) -> None:
        """Count a commit if something was written since the last look. One thread does it.

        Raises:
            StoreUnavailableError: The database cannot be reached.
        """
        with reading(self._engine) as connection:
            latest = tuple(connection.execute(_LATEST).one())
        if latest != self._latest:
            self._latest = latest
            self.commits.note()
