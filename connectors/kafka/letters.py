"""Finds the dead letters of an erased report and sends a tombstone for each key.

A broker removes a key's letters when it compacts the topic (`cleanup.policy=compact`, or `compact,delete`). A topic
that is not compacted keeps them until its retention ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from connectors.kafka.client import KafkaOptions, KafkaUnavailableError, error_text, open_client, require_topics
from connectors.kafka.consumer import OutboundRecord, Producer, RawRecord

QUIET_S = 2.0
"""A topic without a record for this long was read to its end: not every broker tells the end offsets rightly."""
FIRST_S = 10.0
"""Time for the first records of a topic that has some."""
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """What was found in a topic. `places`: partition and offset of each record; `without_key` have no tombstone."""

    places: tuple[tuple[int, int], ...]
    without_key: tuple[tuple[int, int], ...]
    complete: bool
    """False if the topic was not read to its end in `READ_TIMEOUT_S`."""
    policy: str | None
    """`cleanup.policy` of the topic; None: the broker does not tell."""
    retention_ms: int | None


def bury_letters(options: KafkaOptions, topic: str, belongs: Callable[[RawRecord], bool]) -> Letters:
    """Send a tombstone for the key of each record of the topic that belongs to the report.

    Raises:
        KafkaUnavailableError: nothing, or only a part of it, was done; do it again.
    """
    deadline = time.monotonic() + READ_TIMEOUT_S
    try:
        found = [
            record for record in _records(options, topic, deadline) if record.value is not None and belongs(record)
        ]
        settings = topic_settings(options, topic)
    except KafkaError as exc:
        raise KafkaUnavailableError(f"topic {topic} cannot be read: {error_text(exc)}") from exc
    keys = dict.fromkeys(record.key for record in found if record.key is not None)
    with closing(Producer(options)) as producer:
        producer.send_and_wait([OutboundRecord(topic=topic, key=key, value=None) for key in keys])
    retention = settings.get("retention.ms", "")
    return Letters(
        places=tuple((record.partition, record.offset) for record in found),
        without_key=tuple((record.partition, record.offset) for record in found if record.key is None),
        complete=time.monotonic() < deadline,
        policy=settings.get("cleanup.policy"),
        retention_ms=int(retention) if retention.isdecimal() else None,
    )


def topic_settings(options: KafkaOptions, topic: str) -> dict[str, str]:
    """`retention.ms`, `cleanup.policy` and the like; empty where the broker does not tell.

    Raises:
        KafkaUnavailableError: the broker does not answer.
    """
    with closing(open_client(KafkaAdminClient, options)) as admin:
        try:
            found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        except (KafkaError, ValueError):
            return {}
    return {name: _value(entry) for name, entry in found.get("topic", {}).get(topic, {}).items()}


def _value(entry: Any) -> str:
    return str(entry.get("value", "") if isinstance(entry, dict) else entry)


def _records(options: KafkaOptions, topic: str, deadline: float) -> Iterator[RawRecord]:
    settings = {"group_id": None, "auto_offset_reset": "earliest", "enable_auto_commit": False}
    with closing(open_client(KafkaConsumer, options, **settings)) as consumer:
        require_topics(consumer.partitions_for_topic, [topic], options.address)
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        if consumer.end_offsets(partitions) == consumer.beginning_offsets(partitions):
            return
        wait_s = FIRST_S
        while time.monotonic() < deadline and (batches := consumer.poll(timeout_ms=int(wait_s * 1000))):
            wait_s = QUIET_S
            for batch in batches.values():
                yield from map(RawRecord.of, batch)
