"""The start of training runs: by hand, at the cron time, or when enough new lessons wait.

`daemon.runtime.cron` owns the cron time; the database owns "one run at a time".
"""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path
from zoneinfo import ZoneInfo

from daemon import metrics
from daemon.config.dataset import DatasetConfig
from daemon.config.schedule import BlackoutWindow, ScheduleConfig
from daemon.records import IntentKind, IntentState, Run, RunState, Trigger, utcnow
from daemon.runtime.cron import CronClock
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.trust.policy import Policy

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def in_blackout(now: datetime, windows: list[BlackoutWindow], timezone: str) -> BlackoutWindow | None:
    """The window that contains `now` (aware), or None. A window across midnight belongs to the day of its start."""
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


class ScheduleStage:
    """Decides, step by step, whether a run starts; `close` stops the cron clock."""

    name = "schedule"

    def __init__(
        self,
        *,
        store: Store,
        config: ScheduleConfig,
        dataset: DatasetConfig,
        policy: Policy,
        alias: str,
        runs_dir: Path,
    ) -> None:
        """Lessons count once they have what the policy needs to train on their analysis."""
        self.idle_s = config.check_interval_s
        self._store = store
        self._config = config
        self._dataset = dataset
        self._enough = policy.enough(policy.config.train_analysis)
        self._alias = alias
        self._runs_dir = runs_dir
        metrics.SCHEDULE_MIN_LESSONS.labels(trigger=Trigger.THRESHOLD).set(config.min_lessons)
        metrics.SCHEDULE_MIN_LESSONS.labels(trigger=Trigger.CRON).set(config.min_lessons_on_cron)
        last = store.runs.find(limit=1)
        self._clock = CronClock(
            config.cron,
            timezone=config.timezone,
            misfire_grace_s=config.misfire_grace_s,
            last=last[0].created_at if last else None,
        )

    def close(self) -> None:
        self._clock.close()

    def step(self, _life: Life) -> Step:
        if self._clock.next is not None:
            metrics.SCHEDULE_NEXT_RUN.set(self._clock.next.timestamp())
        lessons = self._store.reports.count_new_lessons(self._enough)
        active = self._store.runs.active()
        if active is not None:
            return Step(sentence=f"not starting: run {active.id} (generation {active.generation}) is {active.state}")
        intent = self._store.intents.pending(IntentKind.TRAIN)
        if intent is not None:
            return self._start_by_hand(intent.id, intent.actor, lessons)
        return self._start_by_rule(lessons)

    def _start_by_hand(self, intent_id: int, actor: str, lessons: int) -> Step:
        """An operator may start a run in a blackout and below the threshold, but not without lessons."""
        if not self._store.reports.has_trainable():
            outcome = "not training: there are no lessons yet"
            self._store.intents.finish(intent_id, IntentState.REFUSED, outcome)
            return Step(sentence=outcome, worked=True)
        step = self._start(Trigger.MANUAL, actor, lessons, intent_id)
        if not step.worked:
            self._store.intents.finish(intent_id, IntentState.REFUSED, step.sentence)
        return step

    def _start_by_rule(self, lessons: int) -> Step:
        failed = self._recent_failure()
        if failed is not None and not self._clock.due:
            return Step(
                sentence=f"not training: run {failed.id} failed; see `erratad runs {failed.id}`{self._clock.text()}"
            )
        if lessons >= self._config.min_lessons:
            trigger, needed = Trigger.THRESHOLD, self._config.min_lessons
        elif self._clock.due:
            trigger, needed = Trigger.CRON, self._config.min_lessons_on_cron
        else:
            return Step(
                sentence=f"not training: {lessons} of {self._config.min_lessons} new lessons{self._clock.text()}"
            )
        window = in_blackout(utcnow(), self._config.blackout, self._config.timezone)
        if window is not None:
            metrics.SCHEDULE_DECISIONS.labels(decision="blackout").inc()
            return Step(sentence=f"not training: blackout until {window.end}; the {trigger} run waits")
        self._clock.acknowledge()  # before the start: a cron time starts at most one run
        if lessons < needed:
            metrics.SCHEDULE_DECISIONS.labels(decision="too_few_lessons").inc()
            return Step(sentence=f"cron time passed without a run: {lessons} of {needed} new lessons", worked=True)
        return self._start(trigger, "schedule", lessons)

    def _recent_failure(self) -> Run | None:
        runs = self._store.runs.find(limit=1)
        if not runs or runs[0].state != RunState.FAILED or runs[0].finished_at is None:
            return None
        age_s = (utcnow() - runs[0].finished_at).total_seconds()
        return runs[0] if age_s < self._config.retry_after_failure_s else None

    def _start(self, trigger: Trigger, requested_by: str, lessons: int, intent_id: int | None = None) -> Step:
        run = self._store.runs.start(
            trigger=trigger,
            requested_by=requested_by,
            recipe=self._dataset.recipe,
            seed=self._dataset.seed,
            alias=self._alias,
            runs_dir=self._runs_dir,
            intent_id=intent_id,
        )
        if run is None:
            return Step(sentence="not starting: another run was started at the same moment")
        metrics.SCHEDULE_DECISIONS.labels(decision="started").inc()
        return Step(
            sentence=f"started run {run.id} for generation {run.generation} ({trigger}, {lessons} new lessons)",
            worked=True,
        )
