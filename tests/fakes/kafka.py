"""A cluster and a consumer with the semantics of Apache Kafka 4 that the embedded broker lacks.

A fetch outside of the log is refused, transactions and retention exist, and deleting a topic deletes its committed
offsets. `tests/services/test_kafka_positions.py` runs one contract on this fake and on the embedded broker.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from kafka.structs import OffsetAndMetadata

MARKER = object()
"""The end of a transaction: it has an offset and is delivered to no consumer."""
PARTITIONS = 3


@dataclass(frozen=True)
class Aborted:
    """A record of an aborted transaction."""

    value: bytes


@dataclass
class Log:
    """One partition. `start`: offset of its first record."""

    start: int = 0
    records: list[Any] = field(default_factory=list)
    truncated: bool = False
    """Whether a replica without the latest records has just become leader."""

    @property
    def end(self) -> int:
        return self.start + len(self.records)


class FakeKafka:
    """One topic with three partitions, and the committed offsets of one group."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.committed: dict[TopicPartition, OffsetAndMetadata] = {}
        self.create()

    def create(self) -> None:
        self.id: uuid.UUID | None = uuid.uuid4()
        self.logs = {TopicPartition(self.topic, number): Log() for number in range(PARTITIONS)}

    def delete(self) -> None:
        self.id, self.logs = None, {}
        self.committed.clear()

    def log(self, partition: int) -> Log:
        return self.logs[TopicPartition(self.topic, partition)]

    def append(self, partition: int, *records: Any) -> None:
        self.log(partition).records += records

    def expire(self, partition: int, *, before: int) -> None:
        """Delete the records before an offset, as retention does."""
        log = self.log(partition)
        del log.records[: before - log.start]
        log.start = before

    def cut(self, partition: int, *, end: int) -> None:
        """Lose the records from an offset on, as an unclean leader election does."""
        log = self.log(partition)
        del log.records[end - log.start :]
        log.truncated = True


class FakeKafkaConsumer:
    """The part of `kafka.KafkaConsumer` that the connector uses. It owns all partitions."""

    def __init__(
        self, cluster: FakeKafka, *, max_poll_records: int, auto_offset_reset: str, isolation_level: str
    ) -> None:
        assert auto_offset_reset == "none"
        self._cluster = cluster
        self._most = max_poll_records
        self._skips_aborted = isolation_level == "read_committed"
        self._positions: dict[TopicPartition, int | None] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._resets: set[TopicPartition] = set()
        self._listener: Any = None
        self._coordinator = SimpleNamespace(_join_task=None)  # it is in its group at once
        self._client = SimpleNamespace(
            cluster=SimpleNamespace(topic_id=lambda _: cluster.id, partitions_for_topic=self.partitions_for_topic)
        )

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {tp.partition for tp in self._cluster.logs} if topic == self._cluster.topic else {0}

    def subscribe(self, _topics: list[str], *, listener: Any) -> None:
        self._listener = listener

    def subscription(self) -> set[str]:
        return {self._cluster.topic}

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def poll(self, *, timeout_ms: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        self._assign()
        self._find_positions()
        batches = {}
        try:
            for tp in sorted(self._positions):
                batches[tp] = self._fetch(tp)
        except KafkaError:  # records that were found already are delivered first; the next poll raises
            if not any(batches.values()):
                raise
        return {tp: records for tp, records in batches.items() if records}

    def position(self, tp: TopicPartition, *, timeout_ms: int) -> int | None:
        self._find_positions()
        return self._positions[tp]

    def highwater(self, tp: TopicPartition) -> int | None:
        return self._ends.get(tp)

    def beginning_offsets(self, tps: list[TopicPartition], *, timeout_ms: int) -> dict[TopicPartition, int]:
        return {tp: self._cluster.logs[tp].start for tp in tps}

    def end_offsets(self, tps: list[TopicPartition], *, timeout_ms: int) -> dict[TopicPartition, int]:
        if self._cluster.id is None:
            raise KafkaTimeoutError("Failed to get offsets by timestamps")
        return {tp: self._cluster.logs[tp].end for tp in tps}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp] = offset

    def seek_to_beginning(self, tp: TopicPartition) -> None:
        if tp not in self._positions:
            raise ValueError(f"Unassigned partition: {tp}")
        self._positions[tp] = None
        self._resets.add(tp)

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata], *, timeout_ms: int) -> None:
        self._cluster.committed |= offsets

    def close(self, **_: Any) -> None:
        self._positions.clear()

    def _assign(self) -> None:
        """A rebalance: the topic appeared, or is gone."""
        if set(self._positions) != set(self._cluster.logs):
            self._listener.on_partitions_revoked(list(self._positions))
            self._positions = dict.fromkeys(self._cluster.logs)
            self._ends.clear()
            self._listener.on_partitions_assigned(list(self._positions))

    def _find_positions(self) -> None:
        for tp in self._resets & set(self._positions):
            self._positions[tp] = self._cluster.logs[tp].start
        self._resets.clear()
        for tp in (tp for tp, position in self._positions.items() if position is None):
            if tp in self._cluster.committed:
                self._positions[tp] = self._cluster.committed[tp].offset
        if missing := {tp for tp, position in self._positions.items() if position is None}:
            raise NoOffsetForPartitionError(missing)

    def _fetch(self, tp: TopicPartition) -> list[ConsumerRecord]:
        log, position = self._cluster.logs[tp], self._positions[tp]
        assert position is not None
        if log.truncated and position > log.end:
            raise LogTruncationError({tp: OffsetAndMetadata(log.end)})
        if not log.start <= position <= log.end:
            raise OffsetOutOfRangeError({tp: position})
        self._ends[tp] = log.end
        found: list[ConsumerRecord] = []
        while position < log.end and len(found) < self._most:
            record = log.records[position - log.start]
            if record is not MARKER and not (isinstance(record, Aborted) and self._skips_aborted):
                found.append(_record(tp, position, record.value if isinstance(record, Aborted) else record))
            position += 1
        self._positions[tp] = position
        return found


def _record(tp: TopicPartition, offset: int, value: bytes) -> ConsumerRecord:
    return ConsumerRecord(tp.topic, tp.partition, 0, offset, 0, 0, None, value, [], None, -1, len(value), -1)
