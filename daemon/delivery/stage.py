"""One stage per sink: delivers events from the outbox, oldest first, each at least once, or gives them up visibly.

Each sink has its own delivery state (`daemon.store.outbox`), so no sink waits for another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from daemon.runtime.stage import UNTIL_WRITTEN_S, Life, Step
from daemon.store import Store
from daemon.store.outbox import Attempt, Backlog, DeliveryState, Due, Subscription

RECOUNT_S = 60.0
"""An empty backlog is counted again after this time."""


class SinkUnavailableError(Exception):
    """The sink accepts nothing now. This counts as no attempt, and the events stay due."""


class EventSink(Protocol):
    """A destination of events. `name` is the stage's name; `target` is the sink's name in the stage's sentences."""

    name: str
    idle_s: float
    batch: int
    target: str
    subscription: Subscription

    def send(self, due: Sequence[Due], life: Life) -> Iterator[Sequence[Attempt]]:
        """Attempt deliveries in order. The stage records each yielded item before the next attempt.

        Raises:
            SinkUnavailableError: No (further) event can be delivered now.
        """
        ...

    def show(self, backlog: Backlog) -> None:
        """Set the sink's gauges."""
        ...

    def close(self) -> None: ...


class DeliveryStage:
    def __init__(self, *, store: Store, sink: EventSink) -> None:
        self.name = sink.name
        self.idle_s = sink.idle_s
        self._sink = sink
        self._outbox = store.outbox
        self._nothing_left: tuple[float, Backlog] | None = None
        """A backlog without a waiting event, and when it was counted."""

    def step(self, life: Life) -> Step:
        """Make one attempt for each event of a due batch."""
        due = self._outbox.due(self._sink.subscription, limit=self._sink.batch)
        delivered, error = 0, None
        try:
            for attempts in self._sink.send(due, life) if due else ():
                self._outbox.record(self._sink.subscription, attempts)
                delivered += sum(attempt.state is DeliveryState.DELIVERED for attempt in attempts)
        except SinkUnavailableError as exc:
            error = str(exc)
        if due and delivered == len(due):  # counting the backlog is slow, so only when it stops shrinking
            return Step(sentence=f"delivered {delivered} events to {self._sink.target}", worked=True)
        backlog = self._backlog(due)
        self._sink.show(backlog)
        rest_s = 0.0 if backlog.waiting else UNTIL_WRITTEN_S
        return Step(sentence=_sentence(backlog, error), worked=delivered > 0, rest_s=rest_s)

    def _backlog(self, due: Sequence[Due]) -> Backlog:
        """Counted again if an event was due: without one, a backlog that was empty is empty still."""
        if not due and self._nothing_left is not None and time.monotonic() - self._nothing_left[0] < RECOUNT_S:
            return self._nothing_left[1]
        backlog = self._outbox.backlog(self._sink.subscription)
        self._nothing_left = None if backlog.waiting else (time.monotonic(), backlog)
        return backlog

    def close(self) -> None:
        self._sink.close()


def _sentence(backlog: Backlog, error: str | None) -> str:
    if not backlog.waiting and not backlog.dead:
        return "every event was delivered"
    dead = f", {backlog.dead} were given up" if backlog.dead else ""
    return f"{backlog.waiting} events wait{dead}; last error: {error or backlog.last_error or 'none'}"
