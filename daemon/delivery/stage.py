"""One stage per sink: events from the outbox to the sink, oldest first, each at least once or given up visibly.

A sink has its own account of what was delivered (`daemon.store.outbox`): no sink waits for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.outbox import Attempt, Backlog, DeliveryState, Due, Subscription


class SinkUnavailableError(Exception):
    """The sink takes nothing now. No attempt is counted: the events stay due."""


class EventSink(Protocol):
    """Where events go. `name` is the stage's, as operators know it; `target` what its sentences call the sink."""

    name: str
    idle_s: float
    batch: int
    target: str
    subscription: Subscription

    def send(self, due: Sequence[Due], life: Life) -> Iterator[Sequence[Attempt]]:
        """Attempt deliveries in order; the attempts of each item yielded are recorded before the next is made.

        Raises:
            SinkUnavailableError: nothing (more) can be delivered now.
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

    def step(self, life: Life) -> Step:
        """One attempt for each event of a batch that is due."""
        due = self._outbox.due(self._sink.subscription, limit=self._sink.batch)
        delivered, error = 0, None
        try:
            for attempts in self._sink.send(due, life) if due else ():
                self._outbox.record(self._sink.subscription, attempts)
                delivered += sum(attempt.state is DeliveryState.DELIVERED for attempt in attempts)
        except SinkUnavailableError as exc:
            error = str(exc)
        if due and delivered == len(due):  # the backlog is counted once it is no longer shrinking
            return Step(sentence=f"delivered {delivered} events to {self._sink.target}", worked=True)
        backlog = self._outbox.backlog(self._sink.subscription)
        self._sink.show(backlog)
        return Step(sentence=_sentence(backlog, error), worked=delivered > 0)

    def close(self) -> None:
        self._sink.close()


def _sentence(backlog: Backlog, error: str | None) -> str:
    if not backlog.waiting and not backlog.dead:
        return "every event was delivered"
    dead = f", {backlog.dead} were given up" if backlog.dead else ""
    return f"{backlog.waiting} events wait{dead}; last error: {error or backlog.last_error or 'none'}"
