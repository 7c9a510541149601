"""Dead letters: rejected messages are sent to a separate topic, with the reason and without personal data.

Every letter has a key, so that an erasure can send a tombstone for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord, Producer, RawRecord, RecordTooLargeError
from connectors.messages import Rejection
from daemon import metrics
from daemon.privacy.redact import Redactor

LARGE_BYTES = 900_000
"""Larger letters may exceed the broker's limit (Kafka's default is 1 MiB), so each is sent alone."""
TRUNCATED_BYTES = 65_536
MAX_DETAIL_CHARS = 1_000
_ID = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9][A-Za-z0-9._:/-]{0,199})"')

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A rejected record with the reason."""

    record: RawRecord
    reason: Rejection
    detail: str


class DeadLetters:
    """Sends to the dead-letter topic. After a crash a letter may be sent twice, with the same partition and offset.

    `redactor` None: messages are sent as they came. `content`: what a letter holds of its message, as
    `privacy.dead_letters`.
    """

    def __init__(
        self,
        *,
        producer: Producer,
        topic: str,
        redactor: Redactor | None = None,
        content: Literal["redacted", "none"] = "redacted",
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._redactor = redactor
        self._content = content

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Return when the broker has all letters. Too large ones are truncated, with the hash of the original.

        Raises:
            KafkaUnavailableError: some letters are not acknowledged; send all of them again.
        """
        outbound = [self._outbound(letter) for letter in letters]
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

    def _outbound(self, letter: DeadLetter) -> OutboundRecord:
        record = letter.record
        detail = self._clean(letter.detail.encode("utf-8", "backslashreplace")).decode()[:MAX_DETAIL_CHARS]
        reasons: dict[str, object] = {
            "erratad-reason": letter.reason,
            "erratad-detail": detail,
            "erratad-topic": record.topic,
            "erratad-partition": record.partition,
            "erratad-offset": record.offset,
            "erratad-timestamp": record.timestamp_ms,
        }
        original = tuple((name, self._clean(value or b"")) for name, value in record.headers)
        added = tuple((name, str(value).encode("utf-8", "backslashreplace")) for name, value in reasons.items())
        value, facts = self._value(record.value or b"")
        # a tombstone stays one, but a Kafka record needs a key or a value
        value = None if record.value is None and record.key is not None else value
        return OutboundRecord(topic=self._topic, key=_key(record), value=value, headers=original + added + facts)

    def _value(self, value: bytes) -> tuple[bytes | None, tuple[tuple[str, bytes], ...]]:
        """The value to send, and facts about it: its hash where it is not sent as it came."""
        if self._content == "none" and value:
            return b"", _facts(value)
        if self._redactor is not None and len(value) > LARGE_BYTES:
            # only what is sent is read: a message of any size may come
            return self._clean(value[:TRUNCATED_BYTES]), _facts(value)
        clean = self._clean(value)
        return clean, () if clean == value else (("erratad-redacted", b"true"),)

    def _clean(self, value: bytes) -> bytes:
        """Without personal data; empty if that fails, whatever the reason: then nothing of it is sent."""
        if self._redactor is None or not value:
            return value
        try:
            return self._redactor.letter(value)
        except Exception as exc:  # noqa: BLE001 - a letter must get out, and nothing private with it
            log.warning("letter_withheld", error=type(exc).__name__)
            return b""


def _key(record: RawRecord) -> bytes:
    """The sender's key; without one (or with an address for one) the id in the message, or else the message's place."""
    if record.key is not None and b"@" not in record.key:
        return record.key
    found = _ID.search(record.value or b"")
    return found[1] if found is not None else f"{record.topic}/{record.partition}/{record.offset}".encode()


def _facts(value: bytes) -> tuple[tuple[str, bytes], ...]:
    """Of a value that is not sent whole."""
    hashed = hashlib.sha256(value).hexdigest().encode()
    return ("erratad-truncated-from", str(len(value)).encode()), ("erratad-sha256", hashed)


def _size(letter: OutboundRecord) -> int:
    headers = sum(len(name) + len(value) for name, value in letter.headers)
    return len(letter.key or b"") + len(letter.value or b"") + headers


def _cut(letter: OutboundRecord, too_large: RecordTooLargeError) -> OutboundRecord:
    """Shorten a letter: first truncate the value; if that was not enough, drop key and original headers."""
    value = letter.value or b""
    if len(value) > TRUNCATED_BYTES:
        return replace(letter, value=value[:TRUNCATED_BYTES], headers=letter.headers + _facts(value))
    ours = tuple(header for header in letter.headers if header[0].startswith("erratad-"))
    if letter.key is None and ours == letter.headers:
        raise KafkaUnavailableError(
            f"topic {letter.topic} does not accept {_size(letter)} bytes, raise its max.message.bytes: {too_large}"
        ) from too_large
    return replace(letter, key=None, value=value, headers=ours)
