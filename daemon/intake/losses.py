"""Tells which positions in the topics were lost, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence

from connectors.kafka.consumer import LossCause, PositionLoss
from daemon import metrics
from daemon.records import utcnow
from daemon.store import Reports

LOSS_SHOWN_S = 3600.0
"""For this long, the stage's sentence names the latest lost positions."""


class Losses:
    """Counts lost positions, and keeps a text about the latest ones."""

    def __init__(self, reports: Reports, *, several_topics: bool) -> None:
        self._reports = reports
        self._several = several_topics
        self._waiting: list[PositionLoss] = []
        self._text = ""
        self._at = 0.0

    @property
    def text(self) -> str:
        return self._text if time.monotonic() - self._at < LOSS_SHOWN_S else ""

    def note(self, losses: Sequence[PositionLoss]) -> None:
        """Count them.

        Raises:
            StoreUnavailableError: they are counted by the next call.
        """
        self._waiting += losses
        if not self._waiting:
            return
        known = {topic: self._reports.partitions_of(topic) for topic in {loss.topic for loss in self._waiting}}
        # without a stored report of its partition, a missing offset belongs to a new group or partition
        lost = [
            loss
            for loss in self._waiting
            if loss.cause is not LossCause.NO_OFFSET or loss.partition in known[loss.topic]
        ]
        self._waiting = []
        for loss in lost:
            metrics.KAFKA_POSITIONS_LOST.labels(cause=loss.cause).inc()
        if lost:
            told = "; ".join(map(self._tell, sorted(lost, key=lambda loss: (loss.topic, loss.partition))))
            self._text = f"; read again from the start since {utcnow():%Y-%m-%d %H:%M} UTC: {told}"
            self._at = time.monotonic()

    def _tell(self, loss: PositionLoss) -> str:
        of = f" of {loss.topic}" if self._several else ""
        at = "" if loss.offset is None else f" (position {loss.offset})"
        missing = f", {loss.missing} of them are lost" if loss.missing else ""
        return f"partition {loss.partition}{of}{at}, {_CAUSES[loss.cause]}{missing}"


_CAUSES = {
    LossCause.NO_OFFSET: "the group has no committed offset any more",
    LossCause.BEFORE_START: "the broker deleted messages before they were read",
    LossCause.BEYOND_END: "the log ends before the position",
    LossCause.TRUNCATED: "the log was cut before the position",
    LossCause.RECREATED: "the topic was created again",
}
