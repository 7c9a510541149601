"""Kafka: a consumer that commits only what was handled, and a producer that outlives outages.

kafka-python is pinned to 3.0.12. What is worked around here, each with a test, most in `tests/services/test_kafka.py`:

- its default idempotent producer hangs for ever after an outage longer than the delivery timeout: idempotence is off,
  and consumers drop duplicates by id;
- pausing and resuming one partition silences it: nothing is paused, a batch that cannot be handled is rewound;
- it forgets an entry into the group that the broker answers between two polls, and begins again: until the member is
  `settled`, polls follow each other at once;
- an exception inside `poll()` makes the next one spin: values stay bytes, and a consumer that raised is replaced;
- its cooperative assignor lets a member that lost its session claim its old partitions, and one is then nobody's
  (`tests/faults/test_intake_faults.py`): partitions are assigned by range;
- a record header whose key is not UTF-8 raises inside `poll()` for ever (`kafka_fixes`);
- `bootstrap_connected()` is False while connected: `Consumer.lag` asks for the ends of the partitions instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    CommitFailedError,
    KafkaError,
    MessageSizeTooLargeError,
    RebalanceInProgressError,
    RetriableError,
)
from kafka.structs import OffsetAndMetadata

from connectors.kafka.client import (
    KafkaOptions,
    KafkaUnavailableError,
    TopicMissingError,
    create_topics,
    explain,
    ms,
    open_client,
    require_topics,
    say,
)

__all__ = [
    "Commit",
    "Consumer",
    "KafkaOptions",
    "KafkaUnavailableError",
    "OutboundRecord",
    "Producer",
    "RawRecord",
    "RecordTooLargeError",
    "TopicMissingError",
    "create_topics",
]

COMMIT_TIMEOUT_S = 5.0
OBSERVE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 10.0
DELIVERY_TIMEOUT_S = 15.0
MAX_OUTSTANDING = 50
"""Records that a producer has in flight at once: kafka-python 3 has no bound of its own (`buffer_memory` is gone)."""
MAX_REQUEST_BYTES = 16 * 1_048_576
"""Largest record that a producer hands to the broker, whose own limit then decides."""


class RecordTooLargeError(Exception):
    """The broker (or the producer's own bound) takes no record of this size; `index` is its place in the batch."""

    def __init__(self, index: int, detail: str) -> None:
        super().__init__(detail)
        self.index = index


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """One record as it lies in the topic. `timestamp_ms`: milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    value: bytes | None
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRecord:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Commit(StrEnum):
    """What became of a commit."""

    DONE = "done"
    DELAYED = "delayed"
    """No answer: the offsets go with the next commit."""
    DROPPED = "dropped"
    """Membership is lost: who owns the partitions now gets the records again."""


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Forgets handled offsets of partitions that went to another member; runs on the client's I/O thread."""

    def __init__(self, forget: Callable[[Iterable[TopicPartition]], None]) -> None:
        self._forget = forget
        self.settled = False

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.settled = False
        self._forget(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        self.settled = True


class Consumer:
    """One member of a consumer group on one topic. Not thread-safe: one thread polls, commits and closes.

    It connects at the first poll and again after every failure, so that it can be made before the broker is up.
    """

    def __init__(
        self,
        options: KafkaOptions,
        *,
        topic: str,
        group_id: str,
        needs_topics: Sequence[str] = (),
        max_poll_records: int = 200,
        session_timeout_s: float = 30.0,
    ) -> None:
        self._options = options
        self._topic = topic
        self._needs = (topic, *needs_topics)
        self._settings: dict[str, Any] = {
            "group_id": group_id,
            "max_poll_records": max_poll_records,
            "session_timeout_ms": ms(session_timeout_s),
            "heartbeat_interval_ms": ms(session_timeout_s / 4),
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "partition_assignment_strategy": [RangePartitionAssignor],
            "request_timeout_ms": ms(max(REQUEST_TIMEOUT_S, session_timeout_s + 5)),
        }
        self._consumer: Any = None
        self._membership = _Membership(self._forget)
        self._handled: dict[TopicPartition, OffsetAndMetadata] = {}
        self._lock = threading.Lock()

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that this member owns now."""
        return frozenset(tp.partition for tp in self._assignment())

    @property
    def settled(self) -> bool:
        """Whether the group has said which partitions this member owns; until it has, poll without a pause."""
        return self._membership.settled

    def poll(self, timeout_s: float) -> list[RawRecord]:
        """The next records, in order per partition; empty when none came in `timeout_s`.

        Raises:
            KafkaUnavailableError: when a broker cannot be reached at first, or refuses. A broker that goes away later
                gives no records; `lag` tells.
        """
        consumer = self._connected()
        try:
            batches = consumer.poll(timeout_ms=ms(timeout_s))
        except (KafkaError, ValueError, RuntimeError, OSError) as exc:
            self._drop()
            raise KafkaUnavailableError(f"cannot read {self._topic}: {say(exc)}; erratad connects anew") from exc
        return [_raw(record) for records in batches.values() for record in records]

    def commit(self, records: Sequence[RawRecord]) -> Commit:
        """Commit the offsets after `records`, which are handled, and after those of a delayed commit before.

        Raises:
            KafkaUnavailableError: when the broker refuses for good, e.g. by its access rules.
        """
        with self._lock:
            for record in records:
                self._handled[TopicPartition(record.topic, record.partition)] = OffsetAndMetadata(record.offset + 1)
            assigned = self._assignment()
            offsets = {tp: offset for tp, offset in self._handled.items() if tp in assigned}
            self._handled = dict(offsets)
        if not offsets:
            return Commit.DROPPED if records else Commit.DONE
        try:
            self._consumer.commit(offsets, timeout_ms=ms(COMMIT_TIMEOUT_S))
        except CommitFailedError:
            return Commit.DROPPED
        except (RetriableError, RebalanceInProgressError):
            return Commit.DELAYED
        except KafkaError as exc:
            raise KafkaUnavailableError(f"offsets of {self._topic} are not committed: {say(exc)}") from exc
        with self._lock:
            self._handled = {tp: at for tp, at in self._handled.items() if offsets.get(tp) != at}
        return Commit.DONE

    def rewind(self, records: Sequence[RawRecord]) -> None:
        """Give `records` again at the next poll: they could not be handled now."""
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for tp, offset in first.items():
            with suppress(ValueError):  # no longer assigned: its new owner gets the records
                self._consumer.seek(tp, offset)

    def lag(self) -> Mapping[int, int]:
        """Messages between this member's position and the end of each of its partitions.

        Raises:
            KafkaUnavailableError: when the broker does not answer.
        """
        assigned = self._assignment()
        try:
            ends = self._connected().end_offsets(
                list(assigned or {TopicPartition(self._topic, 0)}), timeout_ms=ms(OBSERVE_TIMEOUT_S)
            )
            positions = {tp: self._consumer.position(tp, timeout_ms=ms(OBSERVE_TIMEOUT_S)) for tp in assigned}
        except KafkaError as exc:
            problem = f"Kafka at {self._options.address} does not answer: {say(exc)}"
            raise KafkaUnavailableError(explain(problem)) from exc
        return {tp.partition: max(0, ends[tp] - at) for tp, at in positions.items() if at is not None}

    def close(self) -> None:
        """Leave the group, so that the partitions go to others at once."""
        self._drop()

    def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = open_client(KafkaConsumer, self._options, **self._settings)
            try:
                require_topics(self._consumer.partitions_for_topic, self._needs, self._options.address)
            except TopicMissingError:
                self._drop()
                raise
            self._membership.settled = False
            self._consumer.subscribe([self._topic], listener=self._membership)
        return self._consumer

    def _assignment(self) -> set[TopicPartition]:
        return set() if self._consumer is None else set(self._consumer.assignment())

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        with self._lock:
            for tp in partitions:
                self._handled.pop(tp, None)

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=ms(CLOSE_TIMEOUT_S))
        self._forget(list(self._handled))


class Producer:
    """Sends records and waits until every replica in sync has them; at least once, in order per key.

    It connects at the first send. Thread-safe as far as one caller at a time sends.
    """

    def __init__(self, options: KafkaOptions, *, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._options = options
        self._max_request_bytes = max_request_bytes
        self._producer: Any = None

    def send_and_wait(self, records: Sequence[OutboundRecord]) -> None:
        """Return when all records are acknowledged.

        Raises:
            RecordTooLargeError: one record is too large; those before it may have been sent.
            KafkaUnavailableError: some records are not acknowledged; send all of them again.
        """
        for start in range(0, len(records), MAX_OUTSTANDING):
            self._send(records[start : start + MAX_OUTSTANDING], start)

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(timeout=CLOSE_TIMEOUT_S)

    def _send(self, records: Sequence[OutboundRecord], start: int) -> None:
        futures: list[Any] = []
        try:
            futures.extend(self._start(record) for record in records)
            for future in futures:
                future.get(timeout=DELIVERY_TIMEOUT_S + 1)
        except MessageSizeTooLargeError as exc:
            index = next((i for i, future in enumerate(futures) if _failed_by_size(future)), len(futures))
            raise RecordTooLargeError(start + index, say(exc)) from exc
        except KafkaError as exc:
            topics = ", ".join(sorted({record.topic for record in records}))
            problem = f"Kafka at {self._options.address} took no records for {topics}: {say(exc)}"
            raise KafkaUnavailableError(explain(problem)) from exc

    def _start(self, record: OutboundRecord) -> Any:
        return self._connected().send(record.topic, record.value, record.key, list(record.headers))

    def _connected(self) -> Any:
        if self._producer is None:
            self._producer = open_client(
                KafkaProducer,
                self._options,
                acks="all",
                enable_idempotence=False,
                max_in_flight_requests_per_connection=1,  # keeps the order when a request is tried again
                request_timeout_ms=ms(REQUEST_TIMEOUT_S),
                delivery_timeout_ms=ms(DELIVERY_TIMEOUT_S),
                max_block_ms=ms(REQUEST_TIMEOUT_S),
                max_request_size=self._max_request_bytes,
            )
        return self._producer


def _failed_by_size(future: Any) -> bool:
    return future.failed() and isinstance(future.exception, MessageSizeTooLargeError)


def _raw(record: Any) -> RawRecord:
    return RawRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=tuple(record.headers),
        value=record.value,
        timestamp_ms=record.timestamp,
    )
