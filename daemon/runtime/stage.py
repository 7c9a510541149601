"""What a stage is, and the one loop that runs every stage.

A stage makes small, crash-safe steps. Each step says in one sentence what it did or why it did nothing; the sentence is
logged when it changes and shown by `erratad status`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
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


class Stage(Protocol):
    name: str
    idle_s: float

    def step(self, stop: threading.Event) -> Step:
        """One bounded piece of work; a long one looks at `stop` and returns early when it is set."""
        ...


@runtime_checkable
class Tends(Protocol):
    """A stage with work that a pause must not stop."""

    def tend(self, stop: threading.Event) -> Step:
        """The step that is made instead while the stage is paused."""
        ...


@runtime_checkable
class AlwaysOn(Protocol):
    """A stage that neither a pause nor a database outage stops: backends depend on it, not on the database."""

    always_on: Literal[True]


class Pulse:
    """When each stage last made progress, for `/livez`; long steps call `beat` themselves."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def beat(self, stage: str) -> None:
        self._last[stage] = time.monotonic()
        metrics.STAGE_LAST_STEP.labels(stage=stage).set_to_current_time()

    def stalled(self, max_stall_s: float) -> list[str]:
        """Stages without a step for longer than `max_stall_s`."""
        now = time.monotonic()
        return sorted(stage for stage, last in self._last.items() if now - last > max_stall_s)


def _step(stage: Stage, control: Control, stop: threading.Event) -> Step:
    pause = None if isinstance(stage, AlwaysOn) else control.paused(stage.name)
    if pause is None:
        return stage.step(stop)
    said = f"paused by {pause.actor}: {pause.reason}"
    if not isinstance(stage, Tends):
        return Step(sentence=said)
    tended = stage.tend(stop)
    return Step(sentence=f"{said}; {tended.sentence}", worked=tended.worked)


def run_stage(stage: Stage, *, control: Control, pulse: Pulse, owner: str, stop: threading.Event) -> None:
    """Run steps until `stop`; a paused stage beats but does not step; a database outage is waited out."""
    said, beaten = "", 0.0
    while not stop.is_set():
        rest_s = stage.idle_s
        try:
            step = _step(stage, control, stop)
            rest_s = 0.0 if step.worked else stage.idle_s
            now = time.monotonic()
            if step.sentence != said or now - beaten > BEAT_INTERVAL_S:
                control.beat(stage.name, owner=owner, sentence=step.sentence)
                beaten = now
        except StoreUnavailableError as exc:
            metrics.STORE_ERRORS.inc()
            step, rest_s = Step(sentence=str(exc)), STORE_RETRY_S
        pulse.beat(stage.name)
        if step.sentence != said:
            log.info("step", stage=stage.name, sentence=step.sentence)
            said = step.sentence
        stop.wait(rest_s)
