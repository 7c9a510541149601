"""Induction runs, which provoke mistakes of the model: one at a time, each with its position."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import IntegrityError

from connectors.messages import FlaggedResponse
from daemon.errors import LeaseLostError
from daemon.privacy.redact import Redactor
from daemon.records import INDUCED, Induction, Source, Trigger, utcnow
from daemon.store import rows, schema
from daemon.store.engine import reading, transaction
from daemon.store.evidence import verified_at_birth
from daemon.store.intake import Added, Arrival, store_batch
from daemon.store.intents import fulfil
from daemon.store.quotas import only_per_reporter


class Inductions:
    def __init__(self, engine: Engine, redactor: Redactor | None = None) -> None:
        self._engine = engine
        self._redactor = redactor

    def start(self, *, trigger: Trigger, requested_by: str, intent_id: int | None = None) -> Induction | None:
        """Open a run that continues at the previous run's position. None if another run is active.

        Args:
            intent_id: The operator's intent that the start completes.

        Raises:
            IllegalTransitionError: That intent has ended already.
        """
        table, now = schema.inductions, utcnow()
        try:
            with transaction(self._engine) as connection:
                last = _latest(connection)
                values = {
                    "trigger": trigger,
                    "requested_by": requested_by,
                    "position": 0 if last is None else last.position,
                    "asked": 0,
                    "kept": 0,
                    "created_at": now,
                    "updated_at": now,
                }
                row = connection.execute(table.insert().values(**values).returning(table)).one()
                if intent_id is not None:
                    fulfil(connection, intent_id, f"started induction {row.id}")
        except IntegrityError:
            return None
        return rows.record(Induction, row)

    def active(self) -> Induction | None:
        last = self.last()
        return last if last is not None and last.finished_at is None else None

    def last(self) -> Induction | None:
        """The latest run, or None."""
        with reading(self._engine) as connection:
            return _latest(connection)

    def file(
        self, run: Induction, found: Sequence[FlaggedResponse], *, asked: int, position: int, reporter_cap: int
    ) -> tuple[Induction, list[Added]]:
        """Store the found mistakes and the run's position in one transaction, so that a crash asks nothing twice.

        The reports pass the same intake as all others (`daemon.store.intake`). Their evidence is `verified`.

        Raises:
            LeaseLostError: Another daemon has continued this run. Nothing is stored.
        """
        table = schema.inductions
        arrivals = Arrival.all_of([(flagged, Source(channel=INDUCED)) for flagged in found], self._redactor)
        with transaction(self._engine) as connection:
            added = store_batch(connection, arrivals, limits=only_per_reporter(reporter_cap))
            verified_at_birth(connection, INDUCED, [flagged.id for flagged in found])
            row = connection.execute(
                update(table)
                .where(table.c.id == run.id, table.c.asked == run.asked, table.c.finished_at.is_(None))
                .values(
                    position=position,
                    asked=table.c.asked + asked,
                    kept=table.c.kept + added.count(Added.STORED),
                    updated_at=utcnow(),
                )
                .returning(table)
            ).one_or_none()
            if row is None:
                raise LeaseLostError(f"induction {run.id}: another daemon goes on with it; these answers are dropped")
        return rows.record(Induction, row), added

    def finish(self, run: Induction, *, reason: str, at: datetime | None = None) -> None:
        table, now = schema.inductions, at or utcnow()
        with transaction(self._engine) as connection:
            connection.execute(
                update(table)
                .where(table.c.id == run.id, table.c.finished_at.is_(None))
                .values(finished_at=now, updated_at=now, reason=reason)
            )


def _latest(connection: Connection) -> Induction | None:
    query = select(schema.inductions).order_by(schema.inductions.c.id.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else rows.record(Induction, row)
