"""Dead letters: rejected messages are sent to a separate topic, unchanged and with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord, Producer, RawRecord, RecordTooLargeError
from connectors.messages import Rejection
from daemon import metrics

LARGE_BYTES = 900_000
"""Larger letters may exceed the broker's limit (Kafka's default is 1 MiB), so each is sent alone."""
TRUNCATED_BYTES = 65_536
MAX_DETAIL_CHARS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A rejected record with the reason."""

    record: RawRecord
    reason: Rejection
    detail: str


class DeadLetters:
    """Sends to the dead-letter topic. After a crash a letter may be sent twice, with the same partition and offset."""

    def __init__(self, *, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return when the broker has all letters. Too large ones are truncated, with the hash of the original.

        Raises:
            KafkaUnavailableError: some letters are not acknowledged; send all of them again.
        """
        outbound = [_outbound(letter, self._topic) for letter in letters]
        self._deliver([letter for letter in outbound if _size(letter) <= LARGE_BYTES])
        for letter in outbound:
            if _size(letter) > LARGE_BYTES:
                self._deliver([letter])
        for refused in letters:
            metrics.DEAD_LETTERS.labels(reason=refused.reason).inc()

    def _deliver(self, batch: list[OutboundRecord]) -> None:
        sent = not batch
        while not sent:
            try:
                self._producer.send_and_wait(batch)
                sent = True
            except RecordTooLargeError as exc:
                batch[exc.index] = _cut(batch[exc.index], exc)

    def close(self) -> None:
        self._producer.close()


def _outbound(letter: DeadLetter, topic: str) -> OutboundRecord:
    record = letter.record
    reasons = {
        "erratad-reason": letter.reason,
        "erratad-detail": letter.detail[:MAX_DETAIL_CHARS],
        "erratad-topic": record.topic,
        "erratad-partition": record.partition,
        "erratad-offset": record.offset,
        "erratad-timestamp": record.timestamp_ms,
    }
    original = tuple((name, value or b"") for name, value in record.headers)
    added = tuple((name, str(value).encode("utf-8", "backslashreplace")) for name, value in reasons.items())
    # a Kafka record needs a key or a value
    value = b"" if record.key is None and record.value is None else record.value
    return OutboundRecord(topic=topic, key=record.key, value=value, headers=original + added)


def _size(letter: OutboundRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in letter.headers)
    return len(letter.key or b"") + len(letter.value or b"") + headers


def _cut(letter: OutboundRecord, too_large: RecordTooLargeError) -> OutboundRecord:
    """Shorten a letter: first truncate the value; if that was not enough, drop key and original headers."""
    value = letter.value or b""
    if len(value) > TRUNCATED_BYTES:
        hashed = hashlib.sha256(value).hexdigest().encode()
        facts = (("erratad-truncated-from", str(len(value)).encode()), ("erratad-sha256", hashed))
        return replace(letter, value=value[:TRUNCATED_BYTES], headers=letter.headers + facts)
    ours = tuple(header for header in letter.headers if header[0].startswith("erratad-"))
    if letter.key is None and ours == letter.headers:
        raise KafkaUnavailableError(
            f"topic {letter.topic} does not accept {_size(letter)} bytes, raise its max.message.bytes: {too_large}"
        ) from too_large
    return replace(letter, key=None, value=value, headers=ours)
