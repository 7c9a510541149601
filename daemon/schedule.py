"""When a training run starts: by hand, at the cron time, or when enough new lessons wait.

APScheduler owns the cron time (time zone, coalesced misfires); the database owns "one run at a time".
"""

from __future__ import annotations

import threading
from datetime import datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from daemon import metrics
from daemon.config import BlackoutWindow, DatasetConfig, ScheduleConfig
from daemon.records import IntentKind, IntentState, Run, RunState, Trigger, utcnow
from daemon.stage import Step
from daemon.store import Store

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def in_blackout(now: datetime, windows: list[BlackoutWindow], timezone: str) -> BlackoutWindow | None:
    """The window that `now` (aware) lies in; a window that crosses midnight belongs to the day it starts on."""
    local = now.astimezone(ZoneInfo(timezone))
    for window in windows:
        start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
        today, yesterday = _DAYS[local.weekday()], _DAYS[local.weekday() - 1]
        if start < end:
            inside = today in window.days and start <= local.time() < end
        else:
            inside = (today in window.days and local.time() >= start) or (
                yesterday in window.days and local.time() < end
            )
        if inside:
            return window
    return None


def missed_since(trigger: CronTrigger, since: datetime, now: datetime) -> datetime | None:
    """The first cron time after `since` that is already past, or None."""
    first: datetime | None = trigger.get_next_fire_time(None, since + timedelta(microseconds=1))
    return first if first is not None and first <= now else None


class ScheduleStage:
    """Decides, step by step, whether a run starts; `close` stops the cron clock."""

    name = "schedule"

    def __init__(
        self, *, store: Store, schedule: ScheduleConfig, dataset: DatasetConfig, alias: str, runs_dir: Path
    ) -> None:
        self.idle_s = schedule.check_interval_s
        self._store = store
        self._schedule = schedule
        self._dataset = dataset
        self._alias = alias
        self._runs_dir = runs_dir
        self._cron_due = threading.Event()
        metrics.SCHEDULE_MIN_LESSONS.labels(trigger=Trigger.THRESHOLD).set(schedule.min_lessons)
        metrics.SCHEDULE_MIN_LESSONS.labels(trigger=Trigger.CRON).set(schedule.min_lessons_on_cron)
        self._clock = BackgroundScheduler(timezone=ZoneInfo(schedule.timezone))
        if schedule.cron is not None:
            self._add_cron(schedule.cron)
        self._clock.start()

    def _add_cron(self, cron: str) -> None:
        trigger = CronTrigger.from_crontab(cron, timezone=ZoneInfo(self._schedule.timezone))
        now = utcnow()
        # a cron time that passed while no daemon ran counts once, unless a run was started since
        since = now - timedelta(seconds=self._schedule.misfire_grace_s)
        last = self._store.runs.find(limit=1)
        if last:
            since = max(since, last[0].created_at)
        self._clock.add_job(
            self._cron_due.set,
            trigger,
            id="cron",
            next_run_time=missed_since(trigger, since, now) or trigger.get_next_fire_time(None, now),
            coalesce=True,
            max_instances=1,
            misfire_grace_time=int(self._schedule.misfire_grace_s) + 1,
        )

    def close(self) -> None:
        self._clock.shutdown(wait=False)

    @property
    def next_cron(self) -> datetime | None:
        job = self._clock.get_job("cron")
        return None if job is None else job.next_run_time

    def step(self, stop: threading.Event) -> Step:  # noqa: ARG002 - a step is a few queries
        if self.next_cron is not None:
            metrics.SCHEDULE_NEXT_RUN.set(self.next_cron.timestamp())
        lessons = self._store.reports.count_new_lessons()
        active = self._store.runs.active()
        if active is not None:
            return Step(sentence=f"not starting: run {active.id} (generation {active.generation}) is {active.state}")
        intent = self._store.control.pending(IntentKind.TRAIN)
        if intent is not None:
            return self._start_by_hand(intent.id, intent.actor, lessons)
        return self._start_by_rule(lessons)

    def _start_by_hand(self, intent_id: int, actor: str, lessons: int) -> Step:
        """An operator may start a run in a blackout and below the threshold, but not from nothing."""
        if not self._store.reports.trainable(limit=1):
            outcome = "not training: there are no lessons yet"
            self._store.control.finish(intent_id, IntentState.REFUSED, outcome)
            return Step(sentence=outcome, worked=True)
        step = self._start(Trigger.MANUAL, actor, lessons)
        self._store.control.finish(intent_id, IntentState.DONE if step.worked else IntentState.REFUSED, step.sentence)
        return step

    def _start_by_rule(self, lessons: int) -> Step:
        failed = self._failed_lately()
        if failed is not None and not self._cron_due.is_set():
            return Step(sentence=f"not training: run {failed.id} failed; see `erratad runs {failed.id}`{self._when()}")
        if lessons >= self._schedule.min_lessons:
            trigger, needed = Trigger.THRESHOLD, self._schedule.min_lessons
        elif self._cron_due.is_set():
            trigger, needed = Trigger.CRON, self._schedule.min_lessons_on_cron
        else:
            return Step(sentence=f"not training: {lessons} of {self._schedule.min_lessons} new lessons{self._when()}")
        window = in_blackout(utcnow(), self._schedule.blackout, self._schedule.timezone)
        if window is not None:
            metrics.SCHEDULE_DECISIONS.labels(decision="blackout").inc()
            return Step(sentence=f"not training: blackout until {window.end}; the {trigger} run waits")
        self._cron_due.clear()
        if lessons < needed:
            metrics.SCHEDULE_DECISIONS.labels(decision="too_few_lessons").inc()
            return Step(sentence=f"cron time passed without a run: {lessons} of {needed} new lessons", worked=True)
        return self._start(trigger, "schedule", lessons)

    def _failed_lately(self) -> Run | None:
        runs = self._store.runs.find(limit=1)
        if not runs or runs[0].state != RunState.FAILED or runs[0].finished_at is None:
            return None
        age_s = (utcnow() - runs[0].finished_at).total_seconds()
        return runs[0] if age_s < self._schedule.retry_after_failure_s else None

    def _start(self, trigger: Trigger, requested_by: str, lessons: int) -> Step:
        run = self._store.runs.start(
            trigger=trigger,
            requested_by=requested_by,
            recipe=self._dataset.recipe,
            seed=self._dataset.seed,
            alias=self._alias,
            runs_dir=self._runs_dir,
        )
        if run is None:
            return Step(sentence="not starting: another run was started at the same moment")
        metrics.SCHEDULE_DECISIONS.labels(decision="started").inc()
        return Step(
            sentence=f"started run {run.id} for generation {run.generation} ({trigger}, {lessons} new lessons)",
            worked=True,
        )

    def _when(self) -> str:
        return "" if self.next_cron is None else f"; next cron time {self.next_cron:%Y-%m-%d %H:%M %Z}"
