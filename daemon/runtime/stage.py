"""What a stage is, and the one loop that runs every stage.

A stage makes small, crash-safe steps. Each step says in one sentence what it did or why it did nothing; the sentence is
logged when it changes and shown by `erratad status`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import structlog

from daemon import metrics
from daemon.errors import StoreUnavailableError
from daemon.store import Control

log = structlog.get_logger(__name__)

BEAT_INTERVAL_S = 5.0
STORE_RETRY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step did. `worked`: there may be more to do at once; otherwise the stage rests for its `idle_s`."""

    sentence: str
    worked: bool = False


class Life:
    """What each step gets to know of the daemon, and tells it; may be used from several threads.

    `heartbeat` is called each time that a long step shows progress; None: the progress is not recorded.
    """

    def __init__(self, stop: threading.Event, *, heartbeat: Callable[[], None] | None = None) -> None:
        self._stop = stop
        self._heartbeat = heartbeat

    @property
    def stopping(self) -> bool:
        """Whether the daemon stops: the step is to end soon."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait, but not longer than until the daemon stops; True when it stops."""
        return self._stop.wait(seconds)

    def heartbeat(self) -> None:
        """Show that a long step makes progress."""
        if self._heartbeat is not None:
            self._heartbeat()


class Stage(Protocol):
    name: str
    idle_s: float

    def step(self, life: Life, /) -> Step:
        """One bounded piece of work. A long one calls `life.heartbeat()`, and returns early when `life.stopping`."""
        ...


@runtime_checkable
class PausedWork(Protocol):
    """A stage with work that a pause must not stop."""

    def step_while_paused(self, life: Life, /) -> Step:
        """The step that is made instead while the stage is paused."""
        ...


@runtime_checkable
class AlwaysOn(Protocol):
    """A stage that neither a pause nor a database outage stops: backends depend on it, not on the database."""

    always_on: Literal[True]


@runtime_checkable
class Closable(Protocol):
    """A stage that holds a connection, a thread or a process."""

    def close(self) -> None:
        """Called once, when no step runs any more."""
        ...


class Pulse:
    """When each stage last made progress, for `/livez`."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def beat(self, stage: str) -> None:
        self._last[stage] = time.monotonic()
        metrics.STAGE_LAST_STEP.labels(stage=stage).set_to_current_time()

    def stalled(self, max_stall_s: float) -> list[str]:
        """Stages without a step for longer than `max_stall_s`."""
        now = time.monotonic()
        return sorted(stage for stage, last in self._last.items() if now - last > max_stall_s)


def _step(stage: Stage, control: Control, life: Life) -> Step:
    pause = None if isinstance(stage, AlwaysOn) else control.paused(stage.name)
    if pause is None:
        return stage.step(life)
    said = f"paused by {pause.actor}: {pause.reason}"
    if not isinstance(stage, PausedWork):
        return Step(sentence=said)
    step = stage.step_while_paused(life)
    return Step(sentence=f"{said}; {step.sentence}", worked=step.worked)


def run_stage(stage: Stage, *, control: Control, pulse: Pulse, owner: str, stop: threading.Event) -> None:
    """Run steps until `stop`; a paused stage beats but does not step; a database outage is waited out."""
    heartbeat = partial(pulse.beat, stage.name)
    life = Life(stop, heartbeat=heartbeat)
    said, beaten = "", 0.0
    while not stop.is_set():
        rest_s = stage.idle_s
        try:
            step = _step(stage, control, life)
            rest_s = 0.0 if step.worked else stage.idle_s
            now = time.monotonic()
            if step.sentence != said or now - beaten > BEAT_INTERVAL_S:
                control.beat(stage.name, owner=owner, sentence=step.sentence)
                beaten = now
        except StoreUnavailableError as exc:
            metrics.STORE_ERRORS.inc()
            step, rest_s = Step(sentence=str(exc)), STORE_RETRY_S
        heartbeat()
        if step.sentence != said:
            log.info("step", stage=stage.name, sentence=step.sentence)
            said = step.sentence
        stop.wait(rest_s)
