"""Stage "gauges": what the database says of queue, runs and pauses, for `/metrics`."""

from __future__ import annotations

import threading

from daemon import metrics
from daemon.records import ACTIVE_RUN_STATES, BASE_GENERATION, AdapterState, Run, utcnow
from daemon.stage import Step
from daemon.store import Store

GENERATION_GAUGES = (metrics.GENERATION_REQUESTS, metrics.GENERATION_ERRORS, metrics.GENERATION_FLAGGED_RATE)
CANDIDATE_STATES = (AdapterState.CANDIDATE, AdapterState.SHADOW, AdapterState.CANARY)


class GaugesStage:
    name = "gauges"
    idle_s = 5.0

    def __init__(self, *, store: Store, stages: list[str]) -> None:
        self._store = store
        self._stages = stages

    def step(self, stop: threading.Event) -> Step:  # noqa: ARG002 - a step is a few queries
        counts = self._store.reports.counts()
        for state, count in counts.items():
            metrics.REPORTS.labels(state=state).set(count)
        oldest = self._store.reports.oldest_queued_at()
        metrics.OLDEST_QUEUED.set(0.0 if oldest is None else (utcnow() - oldest).total_seconds())
        metrics.EVENTS_WAITING.set(self._store.control.count_unpublished())
        active = self._store.runs.active()
        self._show_generations(active)
        for run_state in ACTIVE_RUN_STATES:
            metrics.RUN_ACTIVE.labels(state=run_state).set(int(active is not None and active.state == run_state))
        paused = {pause.stage for pause in self._store.control.pauses()}
        for stage in self._stages:
            metrics.STAGE_PAUSED.labels(stage=stage).set(int(stage in paused or "all" in paused))
        return Step(sentence=f"{sum(counts.values())} reports in the store")

    def _show_generations(self, active: Run | None) -> None:
        """What each generation that has a role answered; a role that none has shows nothing."""
        previous = self._store.adapters.previous()
        roles: dict[str, int | None] = {
            "live": self._store.adapters.live().generation,
            "previous": None if previous is None else previous.generation,
            "candidate": None if active is None else self._candidate(active),
            "base": BASE_GENERATION,
        }
        for role, generation in roles.items():
            if generation is None:
                for gauge in GENERATION_GAUGES:
                    gauge.remove(role)
                continue
            tally = self._store.traffic.tally(generation)
            metrics.GENERATION_REQUESTS.labels(role=role).set(tally.requests)
            metrics.GENERATION_ERRORS.labels(role=role).set(tally.errors)
            metrics.GENERATION_FLAGGED_RATE.labels(role=role).set(tally.flagged_per_1000)

    def _candidate(self, run: Run) -> int | None:
        state = self._store.adapters.get(run.generation).state
        return run.generation if state in CANDIDATE_STATES else None
