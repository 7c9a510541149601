"""The interface of a stage, and the loop that runs each stage.

A stage makes small, crash-safe steps. Each step returns one sentence about its work, or the reason why there was none.
The sentence is logged when it changes, and shown by `erratad status`. A long step says meanwhile where it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import structlog

from daemon import metrics
from daemon.errors import StoreUnavailableError
from daemon.runtime.heartbeats import Heartbeats
from daemon.store import Control
from daemon.store.commits import Commits

log = structlog.get_logger(__name__)

STORE_RETRY_S = 2.0
PAUSES_MAX_AGE_S = 10.0
"""The pauses are read again after this time, though nothing was written."""
UNTIL_WRITTEN_S = 15.0
"""The longest rest of a stage whose work is written into the database; what is due at a time is found this late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Result of a step.

    `worked`: there may be more work, so the next step follows at once; else after the stage's `idle_s`. `rest_s`: or up
    to this long, until something is written into the database.
    """

    sentence: str
    worked: bool = False
    rest_s: float = 0.0


class Life:
    """Connects a step with the daemon: stop request, waiting, heartbeat. Thread-safe.

    `heartbeat` is called on each progress of a long step, `say` with a sentence about it; None: it is not recorded.
    """

    def __init__(
        self,
        stop: threading.Event,
        *,
        heartbeat: Callable[[], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._stop = stop
        self._heartbeat = heartbeat
        self._say = say

    @property
    def stopping(self) -> bool:
        """Whether the daemon stops; the step should return soon."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds`, or until the daemon stops. True if it stops."""
        return self._stop.wait(seconds)

    def heartbeat(self) -> None:
        """Record progress of a long step."""
        if self._heartbeat is not None:
            self._heartbeat()

    def say(self, sentence: str) -> None:
        """Record progress of a long step, and where it is. Shown until the next sentence; some are left out."""
        self.heartbeat()
        if self._say is not None:
            self._say(sentence)


class Stage(Protocol):
    name: str
    idle_s: float

    def step(self, life: Life, /) -> Step:
        """Do one bounded piece of work. Long ones call `life.heartbeat()`, and return early if `life.stopping`."""
        ...


@runtime_checkable
class PausedWork(Protocol):
    """A stage with work that continues during a pause."""

    def step_while_paused(self, life: Life, /) -> Step:
        """Called instead of `step` while the stage is paused."""
        ...


@runtime_checkable
class AlwaysOn(Protocol):
    """A stage that continues during pauses and database outages, because backends depend on it."""

    always_on: Literal[True]


@runtime_checkable
class Closable(Protocol):
    """A stage that holds a connection, a thread or a process."""

    def close(self) -> None:
        """Called once, when no step runs any more."""
        ...


class LastSteps:
    """Time of the last progress of each stage, for `/livez`, and the database's last error per stage, for `/readyz`."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._store_errors: dict[str, str] = {}

    def mark(self, stage: str) -> None:
        self._last[stage] = time.monotonic()
        metrics.STAGE_LAST_STEP.labels(stage=stage).set_to_current_time()

    def store_failed(self, stage: str, error: str) -> None:
        """The database did not take or give what the stage's step needed."""
        self._store_errors[stage] = error

    def store_worked(self, stage: str) -> None:
        """The database took a write of the stage."""
        self._store_errors.pop(stage, None)

    @property
    def store_error(self) -> str | None:
        """The error of a stage whose last step failed in the database, e.g. because the disk is full; or None."""
        return next(iter(list(self._store_errors.values())), None)

    def stalled(self, max_stall_s: float) -> list[str]:
        """Stages without a step for longer than `max_stall_s`."""
        now = time.monotonic()
        return sorted(stage for stage, last in self._last.items() if now - last > max_stall_s)


def _step(stage: Stage, control: Control, life: Life) -> Step:
    pause = None if isinstance(stage, AlwaysOn) else control.paused(stage.name, max_age_s=PAUSES_MAX_AGE_S)
    if pause is None:
        return stage.step(life)
    sentence = f"paused by {pause.actor}: {pause.reason}"
    if not isinstance(stage, PausedWork):
        return Step(sentence=sentence, rest_s=UNTIL_WRITTEN_S)
    step = stage.step_while_paused(life)
    return replace(step, sentence=f"{sentence}; {step.sentence}")


class Rests:
    """The rests of a stage between its steps: each is twice as long as the one before, while nothing is written."""

    def __init__(self, commits: Commits, stop: threading.Event) -> None:
        self._commits = commits
        self._stop = stop
        self._last_s = 0.0
        self._seen = 0

    def step_starts(self) -> None:
        """The step sees what was written until now."""
        self._seen = self._commits.count

    def take(self, idle_s: float, step: Step) -> None:
        """Rest after a step, if it is no step that worked."""
        if step.worked:
            self._last_s = 0.0
            return
        self._stop.wait(idle_s)
        if self._commits.count > self._seen:
            self._last_s = idle_s
            return
        self._last_s = max(idle_s, min(2 * self._last_s, step.rest_s))
        if self._last_s > idle_s and not self._stop.is_set():
            self._commits.wait(after=self._seen, timeout_s=self._last_s - idle_s)


def run_stage(
    stage: Stage,
    *,
    control: Control,
    commits: Commits,
    heartbeats: Heartbeats,
    last_steps: LastSteps,
    stop: threading.Event,
) -> None:
    """Run steps until `stop`. A paused stage sends heartbeats but does not step. Database outages are retried.

    Note a commit after `stop` is set: a stage that rests ends then.
    """
    rests = Rests(commits, stop)
    mark = partial(last_steps.mark, stage.name)
    life = Life(stop, heartbeat=mark, say=partial(_say, heartbeats, stage.name))
    sentence, store_failed = "", False
    while not stop.is_set():
        rests.step_starts()
        try:
            step = _step(stage, control, life)
            # after an outage at once: a write that succeeds shows that the database works again
            heartbeats.beat(stage.name, step.sentence, at_once=store_failed or step.sentence != sentence)
            last_steps.store_worked(stage.name)
            store_failed = False
        except StoreUnavailableError as exc:
            metrics.STORE_ERRORS.inc()
            last_steps.store_failed(stage.name, str(exc))
            store_failed = True
            step = Step(sentence=str(exc))
        mark()
        if step.sentence != sentence:
            log.info("step", stage=stage.name, sentence=step.sentence)
            sentence = step.sentence
        if store_failed:
            stop.wait(STORE_RETRY_S)
        else:
            rests.take(stage.idle_s, step)


def _say(heartbeats: Heartbeats, stage: str, sentence: str) -> None:
    """Amid a step: written with the next heartbeats."""
    try:
        heartbeats.beat(stage, sentence)
    except StoreUnavailableError as exc:
        log.warning("sentence not stored", stage=stage, reason=str(exc))
