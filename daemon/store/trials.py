"""Trials of candidates beside the live generation, and the figures of their shadow answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Engine, func, select, update

from connectors.messages import EventType
from connectors.vllm_wire import ShadowFigures
from daemon.errors import IllegalTransitionError
from daemon.records import AdapterState, TrialRun, utcnow
from daemon.store import rows, schema, serving_tables
from daemon.store.audit import record_audit
from daemon.store.engine import reading, transaction, upsert
from daemon.store.outbox import emit
from daemon.transitions import ADAPTER_TRANSITIONS

ON_TRIAL = (AdapterState.SHADOW, AdapterState.CANARY)
FIGURES = ("pairs", "errors", "live_errors", "seconds", "live_seconds", "dropped")

_CURRENT = (
    select(schema.adapters.c.name, schema.adapters.c.state.label("mode"), serving_tables.trials)
    .join(serving_tables.trials, serving_tables.trials.c.generation == schema.adapters.c.generation)
    .where(schema.adapters.c.state.in_(ON_TRIAL))
)


class Trials:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(
        self,
        generation: int,
        *,
        mode: AdapterState,
        share: float,
        concurrency: int,
        actor: str,
        at: datetime | None = None,
    ) -> None:
        """Put the candidate on trial. Its run waits in `promoting` until it is promoted or rejected.

        Raises:
            IllegalTransitionError: It is not a candidate with an accepting verdict.
        """
        adapters, now = schema.adapters, at or utcnow()
        with transaction(self._engine) as connection:
            query = select(adapters).where(adapters.c.generation == generation).with_for_update()
            row = connection.execute(query).one()
            if mode not in ON_TRIAL or mode not in ADAPTER_TRANSITIONS[row.state] or not row.evidence_accepted:
                raise IllegalTransitionError(f"generation {generation} is {row.state}: it cannot go on trial")
            connection.execute(
                update(adapters).where(adapters.c.generation == generation).values(state=mode, updated_at=now)
            )
            values = {"share": share, "concurrency": concurrency, "started_at": now}
            connection.execute(
                serving_tables.trials.insert().values(generation=generation, run_id=row.run_id, accepted=True, **values)
            )
            emit(
                connection,
                EventType.ADAPTER_ON_TRIAL,
                row.name,
                {"generation": generation, "mode": mode, "share": share},
            )
            reason = f"passed the gate; tried out on {share:.0%}"
            record_audit(connection, actor=actor, action=mode, subject=row.name, reason=reason)

    def current(self) -> TrialRun | None:
        """The current trial, or None."""
        with reading(self._engine) as connection:
            row = connection.execute(_CURRENT).one_or_none()
        return None if row is None else rows.record(TrialRun, row)

    def saw_shadows(self, epoch: str, figures: Mapping[int, ShadowFigures]) -> None:
        """Store a server process's current counts of shadow answers per generation; they only grow while it lives."""
        with transaction(self._engine, makes_work=False) as connection:
            known = set(connection.execute(select(schema.adapters.c.generation)).scalars())
            for generation in known & figures.keys():
                values = {"epoch": epoch, "generation": generation, **figures[generation].shown()}
                upsert(connection, serving_tables.shadowed, ["epoch", "generation"], values)

    def shadowed(self, generation: int) -> ShadowFigures:
        """A generation's shadow answers, summed over all servers and their restarts."""
        table = serving_tables.shadowed
        sums = [func.coalesce(func.sum(table.c[name]), 0).label(name) for name in FIGURES]
        with reading(self._engine) as connection:
            row = connection.execute(select(*sums).where(table.c.generation == generation)).one()
        whole = {name: int(getattr(row, name)) for name in ("pairs", "errors", "live_errors", "dropped")}
        return ShadowFigures(seconds=float(row.seconds), live_seconds=float(row.live_seconds), **whole)
