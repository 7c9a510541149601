"""A Kafka consumer that commits only handled records, and a producer that survives outages.

kafka-python is pinned to 3.0.12. This module works around its bugs, each with a test, most in
`tests/services/test_kafka.py`:

- The default idempotent producer hangs permanently after an outage longer than the delivery timeout. Idempotence is
  off; consumers drop duplicates by id.
- A partition that was paused and resumed delivers no more records. Nothing is paused: a batch that cannot be handled is
  rewound.
- A join of the group that the broker answers between two polls is lost (`connectors.kafka.fixes`). A member that joins
  sends no heartbeats; until it is `settled`, polls follow each other without a pause.
- A member that leaves while it joins stays in the group: the broker answers the join after it has left. `close` waits
  for the end of the join.
- After an exception inside `poll()`, the next `poll()` spins. Values stay bytes; a consumer that raised is replaced.
- The cooperative assignor lets a member that lost its session claim its old partitions; one of them then has no owner
  (`tests/faults/test_intake_faults.py`). Partitions are assigned by range.
- A record header whose key is not UTF-8 makes every later `poll()` raise (`connectors.kafka.fixes`).
- `bootstrap_connected()` is False while connected. `Consumer.lag` asks for the end offsets instead.
- A position that no longer fits the log is corrected silently, or never (`connectors.kafka.positions`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
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
    cluster_of,
    create_topics,
    error_text,
    explain,
    ms,
    open_client,
    require_topics,
)
from connectors.kafka.fixes import joins
from connectors.kafka.positions import POSITION_ERRORS, PositionLoss, PositionWatch, skipped
from connectors.kafka.records import Commit, LossCause, OutboundRecord, Partition, RawRecord, RecordTooLargeError

__all__ = [
    "Commit",
    "Consumer",
    "KafkaOptions",
    "KafkaUnavailableError",
    "LossCause",
    "OutboundRecord",
    "Partition",
    "PositionLoss",
    "Producer",
    "RawRecord",
    "RecordTooLargeError",
    "TopicMissingError",
    "create_topics",
]

COMMIT_TIMEOUT_S = 5.0
METADATA_MAX_AGE_S = 30.0
"""A topic that was created, or created again, is noticed after this time at the latest."""
FETCH_WAIT_S = 1.0
"""How long the broker holds a request for records while there are none. The first record ends the wait.

Other requests on the same connection may wait behind it, so it is well below OBSERVE_TIMEOUT_S.
"""
OBSERVE_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0
CLOSING_POLL_S = 0.1
REQUEST_TIMEOUT_S = 10.0
DELIVERY_TIMEOUT_S = 15.0
MAX_OUTSTANDING = 50
"""Maximum number of records in flight: kafka-python 3 has no limit of its own (`buffer_memory` is gone)."""
MAX_REQUEST_BYTES = 16 * 1_048_576
"""Largest record that the producer sends. The limit of the broker is usually lower."""


class _Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Forgets the handled offsets of revoked partitions. Runs on the client's I/O thread."""

    def __init__(self, forget: Callable[[Iterable[TopicPartition]], None]) -> None:
        self._forget = forget
        self.settled = False

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self.settled = False
        self._forget(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        self.settled = True


class Consumer:
    """One member of a consumer group on some topics. Not thread-safe: one thread polls, commits and closes.

    It connects at the first poll and after every failure, so it can be created while the broker is down. A topic that
    is missing, or closed to this client, does not hold up the others: see `missing`.
    """

    def __init__(
        self,
        options: KafkaOptions,
        *,
        topics: Sequence[str],
        group_id: str,
        needs_topics: Sequence[str] = (),
        max_poll_records: int = 200,
        session_timeout_s: float = 30.0,
        isolation_level: str = "read_committed",
    ) -> None:
        self._options = options
        self._topics = tuple(topics)
        self._needs = tuple(needs_topics)
        self._settings: dict[str, Any] = {
            "group_id": group_id,
            "max_poll_records": max_poll_records,
            "session_timeout_ms": ms(session_timeout_s),
            "heartbeat_interval_ms": ms(session_timeout_s / 4),
            "fetch_max_wait_ms": ms(FETCH_WAIT_S),
            "enable_auto_commit": False,
            "auto_offset_reset": "none",  # a lost position raises; "earliest" would hide the loss
            "isolation_level": isolation_level,
            "metadata_max_age_ms": ms(METADATA_MAX_AGE_S),
            "partition_assignment_strategy": [RangePartitionAssignor],
            "request_timeout_ms": ms(max(REQUEST_TIMEOUT_S, session_timeout_s + 5)),
        }
        self._consumer: Any = None
        self._membership = _Membership(self._forget)
        self._handled: dict[TopicPartition, OffsetAndMetadata] = {}
        self._committed: dict[TopicPartition, OffsetAndMetadata] = {}
        self._watch = PositionWatch()
        self._losses: list[PositionLoss] = []
        self._missing: tuple[str, ...] = ()
        self._looked_at = 0.0
        self._lock = threading.Lock()

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions that this member owns."""
        return frozenset((tp.topic, tp.partition) for tp in self._assignment())

    @property
    def missing(self) -> tuple[str, ...]:
        """The topics that did not exist, or were closed to this client, when it looked last."""
        return self._missing

    @property
    def settled(self) -> bool:
        """Whether the group has assigned partitions to this member. Until then, poll without a pause."""
        return self._membership.settled

    def poll(self, timeout_s: float) -> list[RawRecord]:
        """The next records, in order per partition; empty if none arrived in `timeout_s`.

        A partition whose position is lost is read again from its start; `take_losses` tells why.

        Raises:
            KafkaUnavailableError: when the first connection fails or the broker refuses. When the broker goes away
                later, there are just no records; `lag` detects that.
        """
        self._look_for_missing()
        consumer = self._connected()
        error: Exception | None = None
        batches: dict[TopicPartition, list[Any]] = {}
        try:
            try:
                batches = consumer.poll(timeout_ms=ms(timeout_s))
            except POSITION_ERRORS as exc:
                error = exc
            lost = self._start_again(error)
        except (KafkaError, ValueError, RuntimeError, OSError) as exc:
            self._drop()
            names = ", ".join(self._topics)
            raise KafkaUnavailableError(f"cannot read {names}: {error_text(exc)}; erratad reconnects") from exc
        return [RawRecord.of(record) for tp, records in batches.items() if tp not in lost for record in records]

    def take_losses(self) -> list[PositionLoss]:
        """The positions that were lost since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def commit(self, records: Sequence[RawRecord]) -> Commit:
        """Commit the offsets after the handled `records`, and those of an earlier delayed commit.

        Without records it commits the offsets after markers of transactions and aborted records, which `poll` skips:
        otherwise the group's lag stays above 0.

        Raises:
            KafkaUnavailableError: when the broker refuses permanently, e.g. by its access rules.
        """
        passed = {} if records else skipped(self._consumer, dict(self._committed))
        with self._lock:
            self._handled.update(passed)
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
            names = ", ".join(sorted({tp.topic for tp in offsets}))
            raise KafkaUnavailableError(f"offsets of {names} are not committed: {error_text(exc)}") from exc
        with self._lock:
            self._handled = {tp: at for tp, at in self._handled.items() if offsets.get(tp) != at}
            self._committed |= offsets
        return Commit.DONE

    def rewind(self, records: Sequence[RawRecord]) -> None:
        """Make the next poll return `records` again, because they could not be handled now."""
        first: dict[TopicPartition, int] = {}
        for record in records:
            first.setdefault(TopicPartition(record.topic, record.partition), record.offset)
        for tp, offset in first.items():
            with suppress(ValueError):  # no longer assigned: the new owner reads the records
                self._consumer.seek(tp, offset)

    def lag(self) -> Mapping[Partition, int]:
        """Number of messages after this member's position, by partition.

        Raises:
            KafkaUnavailableError: when the broker does not answer.
        """
        assigned = self._assignment()
        try:
            ends = self._connected().end_offsets(
                list(assigned or {TopicPartition(self._present[0], 0)}), timeout_ms=ms(OBSERVE_TIMEOUT_S)
            )
            positions = {tp: self._consumer.position(tp, timeout_ms=ms(OBSERVE_TIMEOUT_S)) for tp in assigned}
        except POSITION_ERRORS:
            return {}  # the next poll raises it again and corrects the position
        except KafkaError as exc:
            if self._consumer is not None:
                require_topics(cluster_of(self._consumer).partitions_for_topic, self._present, self._options.address)
            problem = f"Kafka at {self._options.address} does not answer: {error_text(exc)}"
            raise KafkaUnavailableError(explain(problem)) from exc
        return {(tp.topic, tp.partition): max(0, ends[tp] - at) for tp, at in positions.items() if at is not None}

    def close(self) -> None:
        """Leave the group, so that its partitions go to other members at once.

        A join that is under way ends first, if it does in CLOSE_TIMEOUT_S: the broker has this member in the group
        already, and would keep partitions for it that nobody reads.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with suppress(KafkaError, ValueError, RuntimeError, OSError):
            while self._consumer is not None and joins(self._consumer) and time.monotonic() < deadline:
                self._consumer.poll(timeout_ms=ms(CLOSING_POLL_S))
        self._drop()

    @property
    def _present(self) -> list[str]:
        return [topic for topic in self._topics if topic not in self._missing]

    def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = open_client(KafkaConsumer, self._options, **self._settings)
            try:
                self._find_topics()
            except TopicMissingError:
                self._drop()
                raise
            self._membership.settled = False
            self._consumer.subscribe(self._present, listener=self._membership)
        return self._consumer

    def _find_topics(self) -> None:
        """Raises TopicMissingError if a needed topic is missing, or all of those to read."""
        partitions_of = self._consumer.partitions_for_topic
        self._missing = tuple(topic for topic in self._topics if not partitions_of(topic))
        self._looked_at = time.monotonic()
        wanted = self._needs if self._present else (*self._topics, *self._needs)
        require_topics(partitions_of, wanted, self._options.address)

    def _look_for_missing(self) -> None:
        """Connect again once a missing topic has appeared."""
        if self._consumer is None or not self._missing or time.monotonic() - self._looked_at < METADATA_MAX_AGE_S:
            return
        self._looked_at = time.monotonic()
        with suppress(KafkaError):  # the poll that follows tells
            if any(self._consumer.partitions_for_topic(topic) for topic in self._missing):
                self._drop()

    def _start_again(self, error: Exception | None) -> set[TopicPartition]:
        """Read the partitions with lost positions from their start; returns them."""
        losses = self._watch.losses(self._consumer, error)
        lost = {TopicPartition(loss.topic, loss.partition) for loss in losses}
        self._forget(lost)
        for tp in lost:
            with suppress(ValueError):  # no longer assigned: its new owner notices the loss, too
                self._consumer.seek_to_beginning(tp)
        self._losses += losses
        return lost

    def _assignment(self) -> set[TopicPartition]:
        return set() if self._consumer is None else set(self._consumer.assignment())

    def _forget(self, partitions: Iterable[TopicPartition]) -> None:
        with self._lock:
            for tp in partitions:
                self._handled.pop(tp, None)
                self._committed.pop(tp, None)

    def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=ms(CLOSE_TIMEOUT_S))
        self._forget([*self._handled, *self._committed])


class Producer:
    """Sends records and waits until all in-sync replicas have them; at least once, in order per key.

    It connects at the first send. Not thread-safe: one caller at a time.
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
            # a record that raised in `_start` has no future: its index is the number of futures
            raise RecordTooLargeError(start + index, error_text(exc)) from exc
        except KafkaError as exc:
            topics = ", ".join(sorted({record.topic for record in records}))
            problem = f"Kafka at {self._options.address} did not accept the records for {topics}: {error_text(exc)}"
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
