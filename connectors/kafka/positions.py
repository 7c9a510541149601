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
from enum import StrEnum
from typing import Any

from kafka import TopicPartition
from kafka.errors import IllegalStateError, LogTruncationError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from connectors.kafka.client import cluster_of

POSITION_ERRORS = (OffsetOutOfRangeError, NoOffsetForPartitionError, LogTruncationError)
"""What kafka-python raises about positions with `auto_offset_reset="none"`."""
BEYOND_END_S = 10.0
"""A position past the end counts as lost after this long: a new leader may report an older end for a moment."""
LOOKUP_TIMEOUT_S = 5.0


class LossCause(StrEnum):
    """Why a position was lost: a closed label set."""

    NO_OFFSET = "no_offset"
    """The group has no committed offset: a new group, or its offsets expired or were deleted."""
    BEFORE_START = "before_start"
    """The broker deleted messages before they were read (retention). They are lost."""
    BEYOND_END = "beyond_end"
    """The log ends before the position: the topic was created again, or the broker lost its data."""
    TRUNCATED = "truncated"
    """The log was cut before the position: a replica without the latest messages became leader."""
    RECREATED = "recreated"
    """The topic was deleted and created again: its id changed, and offsets start at 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionLoss:
    """One partition that is read again from its start. `offset`: the lost position, where it is known."""

    cause: LossCause
    partition: int
    offset: int | None = None
    missing: int = 0
    """Number of messages that were deleted before they were read."""


class PositionWatch:
    """Compares the positions of one consumer with the logs of its topic. Outlives reconnects."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._ids: set[Any] = set()  # all ids seen: a broker with old metadata may name an earlier one again
        self._beyond: dict[TopicPartition, float] = {}

    def losses(self, consumer: Any, error: Exception | None = None) -> list[PositionLoss]:
        """The lost positions among the assigned partitions. `error`: one of `POSITION_ERRORS` that a call raised.

        Raises:
            KafkaError: when the broker does not answer, or a POSITION_ERRORS of a further partition.
        """
        assigned = set(consumer.assignment())
        if self._recreated(consumer, assigned):
            return [PositionLoss(cause=LossCause.RECREATED, partition=tp.partition) for tp in assigned]
        if error is None:
            return self._past_end(consumer, assigned)
        return [_named(error, tp, consumer) for tp in _concerned(error) if tp in assigned]

    def _recreated(self, consumer: Any, assigned: Iterable[TopicPartition]) -> bool:
        found = cluster_of(consumer).topic_id(self._topic)
        if found is None or found in self._ids or (self._ids and not assigned):
            return False
        self._ids.add(found)
        return len(self._ids) > 1

    def _past_end(self, consumer: Any, assigned: Iterable[TopicPartition]) -> list[PositionLoss]:
        """Positions past the end that the latest fetch reported: some brokers answer such a fetch without an error."""
        past = {tp: offset for tp in assigned if (offset := _past(consumer, tp)) is not None}
        now = time.monotonic()
        self._beyond = {tp: self._beyond.get(tp, now) for tp in past}
        return [
            PositionLoss(cause=LossCause.BEYOND_END, partition=tp.partition, offset=past[tp])
            for tp, since in self._beyond.items()
            if now - since >= BEYOND_END_S
        ]


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
        return PositionLoss(cause=LossCause.NO_OFFSET, partition=tp.partition)
    if isinstance(error, LogTruncationError):
        return PositionLoss(cause=LossCause.TRUNCATED, partition=tp.partition)
    offset: int = error.args[0][tp]
    start: int = consumer.beginning_offsets([tp], timeout_ms=int(LOOKUP_TIMEOUT_S * 1000))[tp]
    if offset < start:
        lost = start - offset
        return PositionLoss(cause=LossCause.BEFORE_START, partition=tp.partition, offset=offset, missing=lost)
    return PositionLoss(cause=LossCause.BEYOND_END, partition=tp.partition, offset=offset)


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
