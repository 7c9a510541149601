"""What a dead letter holds of its message, and its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from connectors.kafka.consumer import OutboundRecord, RawRecord
from connectors.messages import Rejection
from daemon.config import Config
from daemon.intake.dead_letters import TRUNCATED_BYTES, DeadLetter, DeadLetters
from daemon.privacy.redact import Redactor

MAIL = b"jane@example.org"


class Topic:
    def __init__(self) -> None:
        self.records: list[OutboundRecord] = []

    def send_and_wait(self, records: Sequence[OutboundRecord]) -> None:
        self.records += records


def sent(redactor: Any, value: bytes | None, *, key: bytes | None = b"k", content: Any = "redacted") -> OutboundRecord:
    topic: Any = Topic()
    record = RawRecord(
        topic="t", partition=1, offset=7, key=key, headers=(("from", MAIL),), value=value, timestamp_ms=0
    )
    letter = DeadLetter(record=record, reason=Rejection.CONFLICT, detail=f"id {MAIL.decode()} is stored")
    DeadLetters(producer=topic, topic="dead", redactor=redactor, content=content).send([letter])
    return topic.records[0]


@pytest.fixture
def redactor(make_config: Callable[..., Config]) -> Redactor:
    return Redactor(make_config())


def test_value_headers_and_detail_lose_personal_data(redactor: Redactor) -> None:
    letter = sent(redactor, b'{"id": "a-1", "response": "mail ' + MAIL + b'"')
    headers = dict(letter.headers)
    assert letter.value == b'{"id": "a-1", "response": "mail <EMAIL_1>"'
    assert headers["from"] == b"<EMAIL_1>"
    assert headers["erratad-detail"] == b"id <EMAIL_1> is stored"
    assert headers["erratad-redacted"] == b"true"


def test_a_message_without_personal_data_is_sent_as_it_came(redactor: Redactor) -> None:
    letter = sent(redactor, b'{"id":  1,"broken')
    assert letter.value == b'{"id":  1,"broken'
    assert "erratad-redacted" not in dict(letter.headers)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (b"k", b'{"id": "a-1"}', b"k"),
        (None, b'{"id": "a-1", "x', b"a-1"),
        (MAIL, b'{"id": "a-1"}', b"a-1"),
        (None, b"no json", b"t/1/7"),
        (None, None, b"t/1/7"),
    ],
)
def test_every_letter_has_a_key(redactor: Redactor, key: bytes | None, value: bytes | None, expected: bytes) -> None:
    assert sent(redactor, value, key=key).key == expected


def test_with_none_a_letter_holds_a_hash_in_place_of_the_message(redactor: Redactor) -> None:
    value = b'{"id": "a-1", "response": "anything"}'
    letter = sent(redactor, value, content="none")
    assert letter.value == b""
    assert dict(letter.headers)["erratad-sha256"].decode() == hashlib.sha256(value).hexdigest()


def test_only_the_start_of_a_huge_message_is_read_and_sent(redactor: Redactor) -> None:
    value = MAIL + b" x" * 600_000
    letter = sent(redactor, value)
    assert letter.value is not None
    assert letter.value.startswith(b"<EMAIL_1> x")
    assert len(letter.value) <= TRUNCATED_BYTES
    assert dict(letter.headers)["erratad-truncated-from"] == str(len(value)).encode()


def test_nothing_of_a_message_is_sent_if_it_cannot_be_redacted() -> None:
    class Broken:
        def letter(self, value: bytes) -> bytes:
            raise RuntimeError("no key")

    letter = sent(Broken(), MAIL)
    assert letter.value == b""
    assert MAIL not in b"".join(value for _, value in letter.headers)
