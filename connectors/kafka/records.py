"""What goes into a topic and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class RecordTooLargeError(Exception):
    """A record exceeds the limit of the broker or producer; `index` is its position in the batch."""

    def __init__(self, index: int, detail: str) -> None:
        super().__init__(detail)
        self.index = index


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """One record as stored in the topic. `timestamp_ms`: milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    value: bytes | None
    timestamp_ms: int

    @classmethod
    def of(cls, record: Any) -> RawRecord:
        """A record of kafka-python."""
        return cls(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            headers=tuple(record.headers),
            value=record.value,
            timestamp_ms=record.timestamp,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRecord:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


class Commit(StrEnum):
    """Outcome of a commit."""

    DONE = "done"
    DELAYED = "delayed"
    """The broker did not answer: the next commit includes these offsets."""
    DROPPED = "dropped"
    """Membership is lost: the new owner of the partitions reads the records again."""


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
