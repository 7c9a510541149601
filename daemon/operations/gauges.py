"""Stage "gauges": figures of queue, runs, pauses and disk for `/metrics`, read anew so that they survive restarts."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from prometheus_client import generate_latest

from daemon import metrics
from daemon.config.serving import ServingConfig
from daemon.labels import BLIND_CRITERIA, PLANTED_CRITERIA, UNUSABLE
from daemon.promotion.approval import approval_waits_s
from daemon.records import ACTIVE_RUN_STATES, BASE_GENERATION, AdapterState, ReportState, Run, RunState, utcnow
from daemon.runtime.stage import Life, Stage, Step
from daemon.store import Store
from daemon.store.outbox import KAFKA
from daemon.store.traffic import TrafficTally
from daemon.trust.policy import Policy

GENERATION_GAUGES = (metrics.GENERATION_LIFETIME_REQUESTS, metrics.GENERATION_FLAGGED_RATIO)
CANDIDATE_STATES = (AdapterState.CANDIDATE, AdapterState.SHADOW, AdapterState.CANARY)
JUDGED_STATES = (RunState.PROMOTING, RunState.PROMOTED, RunState.REJECTED)
UNSEEN_S = 60.0
"""Without a scrape the figures are read anew after this time."""
SCRAPED = threading.Event()
"""Set by each look at the metrics."""
LATEST_RUNS = 50
"""Maximum number of runs in the count of equal outcomes in a row."""


class GaugesStage:
    """Reads the figures in each step."""

    name = "gauges"
    idle_s = 5.0

    def __init__(
        self, *, store: Store, policy: Policy, serving: ServingConfig, data_dir: Path, stages: list[str]
    ) -> None:
        self._store = store
        self._serving = serving
        self._enough = policy.enough(policy.config.train_analysis)
        self._data_dir = data_dir
        self._stages = stages
        self._counted: dict[int, TrafficTally] = {}
        """The traffic of each generation that is in its role's counters already."""

    def step(self, _life: Life) -> Step:
        reports = self._show_queue()
        self._show_runs()
        self._show_signals()
        self._show_induction()
        self._show_pauses()
        disk = shutil.disk_usage(self._data_dir)
        metrics.DATA_DIR_FREE.set(disk.free)
        metrics.DATA_DIR_SIZE.set(disk.total)
        self._store.search_index.fill()
        return Step(sentence=f"{reports} reports in the store")

    def _show_queue(self) -> int:
        self._store.counts.fold()
        counts = self._store.reports.counts()
        for state, count in counts.items():
            metrics.REPORTS.labels(state=state).set(count)
        for evidence, reports in self._store.evidence.counts().items():
            metrics.REPORT_EVIDENCE.labels(evidence=evidence).set(reports)
        serving = self._serving
        for names, reports in self._store.flags.named(alias=serving.alias, base_name=serving.base_name).items():
            metrics.REPORTS_NAMING.labels(names=names).set(reports)
        oldest = self._store.reports.oldest_queued_at()
        metrics.OLDEST_QUEUED.set(0.0 if oldest is None else (utcnow() - oldest).total_seconds())
        last = self._store.reports.last_received_at()
        metrics.LAST_REPORT.set(0.0 if last is None else last.timestamp())
        metrics.NEW_LESSONS.set(self._store.reports.count_new_lessons(self._enough))
        metrics.EVENTS_WAITING.set(self._store.outbox.backlog(KAFKA).waiting)
        metrics.REPORTS_ARCHIVED.set(self._store.archive.total())
        archived_at = self._store.archive.last_at()
        metrics.ARCHIVE_LAST_FILE.set(0.0 if archived_at is None else archived_at.timestamp())
        self._store.trends.note_queue(counts[ReportState.QUEUED] + counts[ReportState.REFLECTING])
        return sum(counts.values())

    def _show_runs(self) -> None:
        runs = self._store.runs.find(limit=LATEST_RUNS)
        metrics.SCHEDULE_LAST_START.set(runs[0].created_at.timestamp() if runs else 0)
        active = next((run for run in runs if run.state in ACTIVE_RUN_STATES), None)
        metrics.APPROVAL_WAITS.set(approval_waits_s(active, utcnow()) or 0.0)
        self._show_generations(active)
        for state in ACTIVE_RUN_STATES:
            metrics.RUN_ACTIVE.labels(state=state).set(int(active is not None and active.state == state))
        self._show_ends(runs)
        self._show_gate(runs)
        self._show_left_out(runs)

    def _show_signals(self) -> None:
        for state, count in self._store.signals.counts().items():
            metrics.SIGNALS.labels(state=state).set(count)

    def _show_induction(self) -> None:
        last = self._store.inductions.last()
        metrics.INDUCED_LAST_START.set(0 if last is None else last.created_at.timestamp())

    def _show_ends(self, latest: list[Run]) -> None:
        ended = [run.state for run in latest if run.state not in ACTIVE_RUN_STATES]
        in_a_row = next((count for count, state in enumerate(ended) if state != ended[0]), len(ended))
        last_ends = self._store.runs.last_ends()
        for end in metrics.RUN_ENDS:
            ended_at = last_ends.get(end)
            metrics.RUN_LAST_END.labels(outcome=end).set(0 if ended_at is None else ended_at.timestamp())
            metrics.RUNS_IN_A_ROW.labels(outcome=end).set(in_a_row if ended and ended[0] == end else 0)

    def _show_gate(self, latest: list[Run]) -> None:
        """Show whether the latest verdict says that the measurement saw too little, or that reports were planted."""
        run = next((run for run in latest if run.state in JUDGED_STATES), None)
        verdict = None if run is None else self._store.runs.verdict(run.id)
        criteria = {} if verdict is None else verdict.figures.get("criteria", {})
        for gauge, shown in ((metrics.GATE_BLIND, BLIND_CRITERIA), (metrics.GATE_PLANTED, PLANTED_CRITERIA)):
            for criterion in shown:
                gauge.labels(criterion=criterion).set(int(not criteria.get(criterion, {}).get("holds", True)))

    def _show_left_out(self, latest: list[Run]) -> None:
        """Show the share of unusable lessons of the latest run that has counted its lessons."""
        progress = next((run.progress for run in latest if "lessons" in run.progress), {})
        unusable = sum(progress.get("left_out", {}).get(reason, 0) for reason in UNUSABLE)
        lessons = unusable + sum(progress.get("lessons", {}).values())
        metrics.DATASET_LEFT_OUT_RATIO.set(unusable / lessons if lessons else 0.0)

    def _show_generations(self, active: Run | None) -> None:
        """Show the traffic of each generation with a role. A role without a generation has no series."""
        previous = self._store.adapters.previous()
        roles: dict[str, int | None] = {
            "live": self._store.adapters.live().generation,
            "previous": None if previous is None else previous.generation,
            "candidate": None if active is None else self._candidate(active),
            "base": BASE_GENERATION,
        }
        having_roles = {generation for generation in roles.values() if generation is not None}
        tallies = {generation: self._store.traffic.tally(generation) for generation in having_roles}
        for role, generation in roles.items():
            if generation is None:
                for gauge in GENERATION_GAUGES:
                    gauge.remove(role)
                continue
            tally = tallies[generation]
            before = self._counted.get(generation, tally)
            metrics.GENERATION_REQUESTS.labels(role=role).inc(max(0, tally.requests - before.requests))
            metrics.GENERATION_ERRORS.labels(role=role).inc(max(0, tally.errors - before.errors))
            metrics.GENERATION_LIFETIME_REQUESTS.labels(role=role).set(tally.requests)
            metrics.GENERATION_FLAGGED_RATIO.labels(role=role).set(tally.flagged_ratio)
        self._counted = tallies

    def _candidate(self, run: Run) -> int | None:
        state = self._store.adapters.get(run.generation).state
        return run.generation if state in CANDIDATE_STATES else None

    def _show_pauses(self) -> None:
        paused = {pause.stage for pause in self._store.control.pauses()}
        for stage in self._stages:
            metrics.STAGE_PAUSED.labels(stage=stage).set(int(stage in paused or "all" in paused))


def exposition() -> bytes:
    """All series, for a scrape."""
    SCRAPED.set()
    return generate_latest()


class WhenScraped:
    """Wraps the stage: it reads the figures after a scrape, for the next one, and else every UNSEEN_S."""

    def __init__(self, stage: Stage) -> None:
        self.name = stage.name
        self.idle_s = stage.idle_s
        self._stage = stage
        self._last = Step(sentence="")
        self._read_at = -UNSEEN_S

    def step(self, life: Life) -> Step:
        if SCRAPED.is_set() or time.monotonic() - self._read_at >= UNSEEN_S:
            SCRAPED.clear()
            self._last = self._stage.step(life)
            self._read_at = time.monotonic()
        return self._last
