"""Notices that a consumer's position no longer fits the log of its partition.

With `auto_offset_reset="earliest"` kafka-python moves such a position silently: a topic that was created again, or
messages that retention deleted before they were read, show in its log only. The consumer therefore runs with "none":
kafka-python raises, `PositionWatch` names the cause, and the consumer reads the partition again from its start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import TopicPartition
from kafka.errors import IllegalStateError, LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from connectors.kafka.client import cluster_of
from connectors.kafka.records import LossCause

POSITION_ERRORS = (OffsetOutOfRangeError, NoOffsetForPartitionError, LogTruncationError)
"""What kafka-python raises about positions with `auto_offset_reset="none"`."""
BEYOND_END_S = 10.0
"""A position past the end counts as lost after this long: a new leader may report an older end for a moment."""
LOOKUP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLoss:
    """One partition that is read again from its start. `offset`: the lost position, where it is known."""

    cause: LossCause
    topic: str
    partition: int
    offset: int | None = None
    missing: int = 0
    """Number of messages that were deleted before they were read."""


class PositionWatch:
    """Compares the positions of one consumer with the logs of its topics. Outlives reconnects."""

    def __init__(self) -> None:
        # all ids seen of each topic: a broker with old metadata may name an earlier one again
        self._ids: dict[str, set[Any]] = {}
        self._beyond: dict[TopicPartition, float] = {}

    def losses(self, consumer: Any, error: Exception | None = None) -> list[PositionLoss]:
        """The lost positions among the assigned partitions. `error`: one of `POSITION_ERRORS` that a call raised.

        Raises:
            KafkaError: when the broker does not answer, or a POSITION_ERRORS of a further partition.
        """
        assigned = set(consumer.assignment())
        new = {topic for topic in consumer.subscription() or () if self._recreated(consumer, topic, assigned)}
        found = [_loss(LossCause.RECREATED, tp) for tp in assigned if tp.topic in new]
        others = {tp for tp in assigned if tp.topic not in new}
        if error is None:
            return found + self._past_end(consumer, others)
        return found + [_named(error, tp, consumer) for tp in _concerned(error) if tp in others]

    def _recreated(self, consumer: Any, topic: str, assigned: Iterable[TopicPartition]) -> bool:
        found, ids = cluster_of(consumer).topic_id(topic), self._ids.setdefault(topic, set())
        if found is None or found in ids or (ids and all(tp.topic != topic for tp in assigned)):
            return False
        ids.add(found)
        return len(ids) > 1

    def _past_end(self, consumer: Any, assigned: Iterable[TopicPartition]) -> list[PositionLoss]:
        """Positions past the end that the latest fetch reported: some brokers answer such a fetch without an error."""
        past = {tp: offset for tp in assigned if (offset := _past(consumer, tp)) is not None}
        now = time.monotonic()
        self._beyond = {tp: self._beyond.get(tp, now) for tp in past}
        return [
            _loss(LossCause.BEYOND_END, tp, past[tp])
            for tp, since in self._beyond.items()
            if now - since >= BEYOND_END_S
        ]


def _loss(cause: LossCause, tp: TopicPartition, offset: int | None = None, missing: int = 0) -> PositionLoss:
    return PositionLoss(cause=cause, topic=tp.topic, partition=tp.partition, offset=offset, missing=missing)


def _past(consumer: Any, tp: TopicPartition) -> int | None:
    end = consumer.highwater(tp)
    if end is None:  # nothing was fetched yet
        return None
    position: int | None = consumer.position(tp, timeout_ms=0)
    return position if position is not None and position > end else None


def _concerned(error: Exception) -> list[TopicPartition]:
    return list(error.divergent_offsets if isinstance(error, LogTruncationError) else error.args[0])


def _named(error: Exception, tp: TopicPartition, consumer: Any) -> PositionLoss:
    if isinstance(error, NoOffsetForPartitionError):
        return _loss(LossCause.NO_OFFSET, tp)
    if isinstance(error, LogTruncationError):
        return _loss(LossCause.TRUNCATED, tp)
    offset: int = error.args[0][tp]
    start: int = consumer.beginning_offsets([tp], timeout_ms=int(LOOKUP_TIMEOUT_S * 1000))[tp]
    if offset < start:
        return _loss(LossCause.BEFORE_START, tp, offset, missing=start - offset)
    return _loss(LossCause.BEYOND_END, tp, offset)


def skipped(
    consumer: Any, committed: Mapping[TopicPartition, OffsetAndMetadata]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Positions after the committed offsets, when every record was handled: transaction markers and aborted records."""
    found = {}
    for tp, last in committed.items():
        with suppress(IllegalStateError, *POSITION_ERRORS):
            position = consumer.position(tp, timeout_ms=0)
            if position is not None and position > last.offset:
                found[tp] = OffsetAndMetadata(position)
    return found
