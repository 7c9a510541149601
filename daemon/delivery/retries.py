"""What becomes of an event that its sink refused: tried again with growing waits, then given up visibly."""

from __future__ import annotations

from datetime import timedelta

import structlog

from daemon import metrics
from daemon.records import utcnow
from daemon.runtime.backoff import Backoff
from daemon.store.outbox import Attempt, Backlog, DeliveryState, Due, Sink

log = structlog.get_logger(__name__)

MAX_BACKOFF_S = 3600.0


class Retries:
    """The outcomes of one sink's attempts, counted in its metrics."""

    def __init__(self, sink: Sink, *, max_attempts: int, backoff_s: float) -> None:
        self._sink = sink
        self._max_attempts = max_attempts
        self._backoff = Backoff(first_s=backoff_s, limit_s=MAX_BACKOFF_S)

    def delivered(self, due: Due) -> Attempt:
        self._count("delivered")
        return Attempt(due=due, state=DeliveryState.DELIVERED)

    def refused(self, due: Due, error: str, *, final: bool = False) -> Attempt:
        """Another attempt later, or none if this was the last allowed one or is `final`."""
        attempts = due.attempts + 1
        if final or attempts >= self._max_attempts:
            self._count("dead")
            event = due.event
            log.error(
                "delivery_dead",
                sink=self._sink.value,
                event_id=event.id,
                type=event.type,
                attempts=attempts,
                error=error,
            )
            return Attempt(due=due, state=DeliveryState.DEAD, error=error)
        self._count("retried")
        again = utcnow() + timedelta(seconds=self._backoff.delay_s(attempts))
        return Attempt(due=due, state=DeliveryState.WAITING, error=error, next_attempt_at=again)

    def show(self, backlog: Backlog) -> None:
        metrics.DELIVERY_WAITING.labels(sink=self._sink).set(backlog.waiting)
        metrics.DELIVERY_DEAD.labels(sink=self._sink).set(backlog.dead)

    def _count(self, outcome: str) -> None:
        metrics.DELIVERY_ATTEMPTS.labels(sink=self._sink, outcome=outcome).inc()
