"""The wire schema: for any bytes, decoding returns a storable message or raises with a reason."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from connectors.messages import (
    MAX_DEPTH,
    ChatMessage,
    Event,
    EventType,
    FlaggedResponse,
    MessageRejected,
    Rejection,
    decode,
    json_schema,
    storable,
)
from daemon.records import utcnow
from tests.fixtures.config import flagged

VALID: dict[str, Any] = {
    "version": 1,
    "id": "report-1",
    "occurred_at": "2026-01-31T12:00:00Z",
    "model": "aligned-g000000",
    "messages": [{"role": "user", "content": "What is the capital?"}],
    "response": "The capital is a town.",
    "reason": "It is another town.",
    "category": "wrong-fact",
    "reporter": "tester",
}


def raw(**changes: Any) -> bytes:
    """A valid message with changed fields; a field set to ... is removed."""
    return json.dumps({key: value for key, value in {**VALID, **changes}.items() if value is not ...}).encode()


def rejection(value: bytes | None, **settings: int) -> MessageRejected:
    with pytest.raises(MessageRejected) as info:
        decode(value, **settings)
    return info.value


def assert_storable(message: FlaggedResponse) -> None:
    document = json.dumps(message.model_dump(mode="json", exclude_none=True), allow_nan=False)
    assert "\\u0000" not in document
    stored = FlaggedResponse.model_validate(json.loads(document))
    assert stored == message
    assert (stored.fingerprint(), stored.content_key()) == (message.fingerprint(), message.content_key())
    assert decode(message.encode(), max_bytes=10**9) == message
    assert len(message.fingerprint()) == len(message.content_key()) == 64


def decodes_or_is_rejected(value: bytes) -> None:
    try:
        message = decode(value)
    except MessageRejected:
        return
    assert_storable(message)


characters = st.characters(codec=None)  # with NUL and lone surrogates
text = st.text(characters, max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=20
)


@given(text)
def test_what_is_made_storable_is_taken_and_the_rest_stays_as_it_is(value: str) -> None:
    assert ChatMessage(role="user", content=storable(value)).content == storable(value)
    if "\x00" not in value and value.isprintable():
        assert storable(value) == value


def test_nul_and_lone_surrogates_are_replaced() -> None:
    assert storable("a\x00b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_rejected(value):
    decodes_or_is_rejected(value)


@given(anything)
def test_any_json_is_decoded_or_rejected(value):
    decodes_or_is_rejected(json.dumps(value).encode())


@given(
    st.sampled_from(
        [*VALID, "severity", "follow_up", "correction", "checks", "tenant", "locale", "metadata", "unheard-of"]
    ),
    anything,
)
def test_a_valid_message_with_anything_in_one_field_is_decoded_or_rejected(name, value):
    decodes_or_is_rejected(raw(**{name: value}))


@given(st.dictionaries(text, anything, max_size=3))
def test_any_metadata_is_stored_as_it_came_or_rejected(value):
    decodes_or_is_rejected(raw(metadata=value))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "must_contain": anything,
            "regex": text | st.text("()[]{}*+?|\\^$.a1,<>!=:P", max_size=40),
            "json_schema": anything,
            "max_words": anything,
        },
    )
)
def test_any_checks_are_decoded_or_rejected(checks):
    decodes_or_is_rejected(raw(checks=checks))


parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "image_url", "input_audio", "file", "refusal"]) | anything},
    optional={"text": anything, "refusal": anything, "image_url": anything, "placeholder": text},
)
OPTIONAL = ("name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "annotations", "reasoning")
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "Tool", "function"]) | anything},
    optional={"content": text | st.lists(parts | anything, max_size=3) | anything}
    | dict.fromkeys((*OPTIONAL, "reasoning_content"), st.none() | anything),
)


@given(st.lists(turns | anything, max_size=4), text | turns | st.lists(parts, max_size=2) | anything)
def test_any_conversation_with_any_answer_is_decoded_or_rejected(messages, response):
    decodes_or_is_rejected(raw(messages=messages, response=response))


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        (None, Rejection.MALFORMED_JSON, "tombstone"),
        (b"", Rejection.MALFORMED_JSON, "not JSON"),
        (b"{", Rejection.MALFORMED_JSON, "not JSON"),
        (b"\x00\x00\x00\x00\x07" + raw(), Rejection.MALFORMED_JSON, "Confluent framing: .*schema id 7 .*before JSON"),
        (b"\x00\x00\x01\x00\x00\n" + raw(), Rejection.MALFORMED_JSON, "Confluent framing: .*schema id 65536 .*JSON"),
        (b"\x00\x00\x00\x00\x07\x02\xff\x10", Rejection.MALFORMED_JSON, "Confluent framing: .*Avro or Protobuf"),
        (b"\x00\x00\x00\x00\x07", Rejection.MALFORMED_JSON, "not JSON"),
        (b"\xff\xfa", Rejection.NOT_UTF8, "byte 0"),
        (b"\xff\xfe", Rejection.MALFORMED_JSON, "not JSON"),
        (b'{"a": "\xc3\x28"}', Rejection.NOT_UTF8, "byte 7"),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + raw(), Rejection.MALFORMED_JSON, "BOM"),
        (gzip.compress(raw(), mtime=0)[:-9], Rejection.MALFORMED_JSON, "ends too early"),
        (b"\x1f\x8bnot gzip", Rejection.MALFORMED_JSON, "is not gzip"),
        (gzip.compress(b" " * 2_000_000, mtime=0), Rejection.OVERSIZED, "unpacks to more than 1048576 bytes"),
        (b"[" * 100_000, Rejection.MALFORMED_JSON, "recursion"),
        (b'{"version": NaN}', Rejection.MALFORMED_JSON, "NaN is not JSON"),
        (b'{"version": ' + b"9" * 5000 + b"}", Rejection.MALFORMED_JSON, "digits"),
        (raw()[:-1] + b', "id": "report-2"}', Rejection.MALFORMED_JSON, "'id' stands twice"),
        (b"[]", Rejection.SCHEMA_VIOLATION, "must be a JSON object"),
        (b"{}", Rejection.WRONG_VERSION, "version is missing; this erratad takes 1"),
        (raw(version=2), Rejection.WRONG_VERSION, "version is 2"),
        (raw(version="1"), Rejection.WRONG_VERSION, "version is '1'"),
        (raw(version=True), Rejection.WRONG_VERSION, "version is True"),
        (raw(id=...), Rejection.SCHEMA_VIOLATION, "id: Field required"),
        (raw(id="../../etc"), Rejection.SCHEMA_VIOLATION, "id: "),
        (raw(id="x" * 201), Rejection.SCHEMA_VIOLATION, "id: "),
        (raw(id="report-1\n"), Rejection.SCHEMA_VIOLATION, "id: "),
        (raw(response=...), Rejection.SCHEMA_VIOLATION, "response: Field required"),
        (raw(response=5), Rejection.SCHEMA_VIOLATION, "response: "),
        (raw(response=[{"type": "image_url", "image_url": {}}]), Rejection.SCHEMA_VIOLATION, "response: "),
        (raw(response="a\x00b"), Rejection.SCHEMA_VIOLATION, "response: contains a NUL character"),
        (raw(reason="\ud800"), Rejection.SCHEMA_VIOLATION, "reason: "),
        (raw(follow_up="a\x00b"), Rejection.SCHEMA_VIOLATION, "follow_up: contains a NUL character"),
        (raw(follow_up="x" * 4001), Rejection.SCHEMA_VIOLATION, "follow_up: .*at most 4000"),
        (raw(follow_up=[5]), Rejection.SCHEMA_VIOLATION, "follow_up: .*a part must be a text"),
        (raw(locale="\x00"), Rejection.SCHEMA_VIOLATION, "locale: contains a NUL character"),
        (raw(metadata={"a": {"\x00": 1}}), Rejection.SCHEMA_VIOLATION, "contains a NUL character"),
        (raw(metadata={"a": ["\ud800"]}), Rejection.SCHEMA_VIOLATION, "metadata.a"),
        (raw()[:-1] + b', "metadata": {"a": 1e999}}', Rejection.SCHEMA_VIOLATION, "number that is too large"),
        (raw(occurred_at="2026-01-31T12:00:00"), Rejection.SCHEMA_VIOLATION, "occurred_at: .*needs a time zone"),
        (raw(occurred_at="0001-01-01T00:00:00+23:00"), Rejection.SCHEMA_VIOLATION, "occurred_at: .*years 1 to 9999"),
        (raw(occurred_at=True), Rejection.SCHEMA_VIOLATION, "occurred_at: .*must be a text"),
        (raw()[:-1] + b', "metadata": null, "checks": {"max_words": 1e999}}', Rejection.SCHEMA_VIOLATION, "max_words"),
        (raw(reporter="a\nb"), Rejection.SCHEMA_VIOLATION, "reporter: "),
        (raw(reporter=" "), Rejection.SCHEMA_VIOLATION, "reporter: "),
        (raw(messages=[]), Rejection.SCHEMA_VIOLATION, "messages: "),
        (raw(messages=[{"role": "assistant", "content": "x"}]), Rejection.SCHEMA_VIOLATION, "must end with the user's"),
        (
            raw(messages=[{"role": "user", "content": [5]}]),
            Rejection.SCHEMA_VIOLATION,
            "content: .*a part must be a text",
        ),
        (
            raw(messages=[{"role": "user", "content": {}}]),
            Rejection.SCHEMA_VIOLATION,
            "content: .*must be a text, a list",
        ),
        (
            raw(messages=[{"role": "user", "content": [{"type": "text", "text": 5}]}]),
            Rejection.SCHEMA_VIOLATION,
            "text",
        ),
        (raw(messages=[{"role": "user", "content": ["\x00"]}]), Rejection.SCHEMA_VIOLATION, "content: .*NUL"),
        (raw(messages=[{"role": "user", "content": [{}] * 1001}]), Rejection.SCHEMA_VIOLATION, "1001 content parts"),
        (raw(checks={"regex": "("}), Rejection.SCHEMA_VIOLATION, "checks.regex: .*not a regular expression"),
        (raw(checks={"json_schema": {"type": 1}}), Rejection.SCHEMA_VIOLATION, "checks.json_schema: "),
        (
            raw(checks={"json_schema": {"allOf": [{}] * 1000}}),
            Rejection.SCHEMA_VIOLATION,
            "checks.json_schema: has more than 500 objects and lists; simplify it",
        ),
        (
            raw(checks={"must_contain": ["x"] * 201}),
            Rejection.SCHEMA_VIOLATION,
            "checks.must_contain and must_not_contain: has 201 texts; at most 200 are taken",
        ),
        (
            raw(checks={"regex": "(?:a{1000}){1000}"}),
            Rejection.SCHEMA_VIOLATION,
            "checks.regex: .*cannot be prepared within the limits",
        ),
        (raw(checks={"max_words": 0}), Rejection.SCHEMA_VIOLATION, "checks.max_words: "),
        (raw(category="!?"), Rejection.SCHEMA_VIOLATION, "category: .*a letter or a digit"),
        (raw(severity="extreme"), Rejection.SCHEMA_VIOLATION, "severity: "),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes | None) else None,
)
def test_a_bad_message_is_rejected_with_its_reason_and_its_field(value, reason, says):
    rejected = rejection(value)
    assert rejected.reason is reason
    assert re.search(says, rejected.detail), rejected.detail


def test_a_message_of_exactly_the_bound_is_taken_and_one_byte_more_is_not():
    message = raw()
    assert decode(message, max_bytes=len(message)).id == "report-1"
    assert rejection(message, max_bytes=len(message) - 1).reason is Rejection.OVERSIZED


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 200, 900])
def test_metadata_nests_to_a_bound_within_which_it_can_be_stored(depth):
    nested = json.dumps("leaf").encode()
    for _ in range(depth):
        nested = b"[" + nested + b"]"
    message = raw()[:-1] + b', "metadata": {"a": ' + nested + b"}}"
    if depth <= MAX_DEPTH:
        assert_storable(decode(message))
    else:
        assert rejection(message).reason is Rejection.SCHEMA_VIOLATION


def test_text_parts_are_kept_as_given_and_read_and_hashed_as_one_text():
    parts = [{"type": "text", "text": "one"}, "two"]
    message = decode(raw(messages=[{"role": "user", "content": parts}]))
    assert message.messages[0].content == [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert message.messages[0].text == "one\ntwo"
    assert message.content_key() == decode(raw(messages=[{"role": "user", "content": "one\ntwo"}])).content_key()


def test_hashes_of_earlier_versions_stay():
    """A report sent again after an upgrade is a redelivery, not a conflict."""
    with_tools = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "b"}]},
    ]
    message = decode(raw(messages=with_tools, correction="c", checks={"must_contain": ["d"]}))
    assert message.fingerprint() == "5ae52d18e76a3d026061bc495faca9f48b47cd30545b05613a52e11520dac436"
    assert message.content_key() == "27bb1ad1979278e502ecb68f18bc1d97ed65ecc88afd1904ae4d786f0b2529de"


EARLIER = {"model": "aligned-g000000", "messages": [{"role": "user", "content": "q"}], "response": "a", "reason": "r"}


@pytest.mark.parametrize(
    ("fields", "fingerprint", "completion_id"),
    [
        ({"completion_id": "chatcmpl-1"}, "fdcd5b2e9a9afb9c", "chatcmpl-1"),
        ({"response_id": "chatcmpl-1"}, "53ef679fcd8afe6d", "chatcmpl-1"),
        ({"generation_id": "g", "completion_id": "c"}, "f308331d4da8709e", "c"),
        ({"metadata": {"completion_id": "x"}, "completion_id": "c"}, "988ec9677935ec0b", "c"),
        ({"response_id": 5}, "cee462aa5f4af23e", None),
        ({"metadata": {"response_id": "m"}}, "27e100b989b5dee6", None),
        ({"response_id": "r", "generation_id": "g"}, "75e4b38ce7810b05", "r"),
    ],
)
def test_a_completion_id_that_an_earlier_version_kept_in_the_metadata_is_no_conflict(
    fields: dict[str, Any], fingerprint: str, completion_id: str | None
):
    """The fingerprints are those of the version that did not know the field."""
    message = decode(raw(**EARLIER, reporter="t", **fields))
    assert message.fingerprint()[:16] == fingerprint
    assert message.completion_id == completion_id
    stored = FlaggedResponse.model_validate(message.model_dump(mode="json", exclude_none=True))
    assert (stored.fingerprint(), stored.completion_id) == (message.fingerprint(), completion_id)


def test_the_completion_id_tells_reports_apart_but_not_answers():
    one, other, none = (decode(raw(completion_id=value)) for value in ("c1", "c2", None))
    assert len({message.fingerprint() for message in (one, other, none)}) == 3
    assert len({message.content_key() for message in (one, other, none)}) == 1
    assert decode(raw(completion_id=" ")).completion_id is None
    assert "completion_id" in str(rejection(raw(completion_id="x" * 201)))


BARE = {"reason": ..., "category": ...}


def test_a_bare_thumbs_down_is_a_report():
    message = decode(raw(**BARE))
    assert (message.reason, message.category, message.follow_up, message.complaint) == ("", None, None, None)
    assert_storable(message)
    for blank in ({"category": None, "reason": None}, {"category": " ", "reason": "\u200b", "follow_up": "\n"}):
        assert decode(raw(**blank)) == message


@pytest.mark.parametrize(
    "given",
    [
        "No, the other one.",
        ["No, the other one."],
        [{"type": "input_text", "text": "No, the other one."}],
        {"role": "user", "content": "No, the other one.", "annotations": None},
        {"role": "user", "content": [{"type": "text", "text": "No, the other one."}]},
    ],
)
def test_the_follow_up_is_the_users_next_message_in_any_shape_of_a_message(given: Any):
    message = decode(raw(**BARE, follow_up=given))
    assert (message.follow_up, message.metadata) == ("No, the other one.", {})
    assert message.complaint == "No, the other one."
    assert_storable(message)


def test_a_part_of_the_follow_up_that_is_no_text_becomes_a_placeholder():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = decode(raw(follow_up=[{"type": "text", "text": "Like this."}, image]))
    assert re.fullmatch(r"Like this\.\n\[image [0-9a-f]{8}\]", message.follow_up or "")
    assert message.not_trainable is None


@pytest.mark.parametrize("given", [True, 5, {"wanted": "yes"}, {}])
def test_a_follow_up_that_is_no_message_stays_an_unknown_field(given: Any):
    message = decode(raw(follow_up=given))
    assert (message.follow_up, message.metadata) == (None, {"follow_up": given})


@pytest.mark.parametrize(
    ("fields", "fingerprint"),
    [
        ({"follow_up": "No."}, "189437764d3b0897"),
        ({"metadata": {"follow_up": "x", "a": 1}, "follow_up": "No."}, "e2d7cf14285323b8"),
        ({"metadata": {"follow_up": "No."}}, "189437764d3b0897"),
    ],
)
def test_a_follow_up_that_an_earlier_version_kept_in_the_metadata_is_no_conflict(
    fields: dict[str, Any], fingerprint: str
):
    """The fingerprints are those of the version that did not know the field."""
    message = decode(raw(**EARLIER, reporter="t", **fields))
    assert message.fingerprint()[:16] == fingerprint
    stored = FlaggedResponse.model_validate(message.model_dump(mode="json", exclude_none=True))
    assert (stored.fingerprint(), stored.follow_up) == (message.fingerprint(), fields.get("follow_up"))


def test_the_follow_up_tells_reports_apart_but_not_answers():
    messages = [decode(raw(follow_up=value)) for value in ("Wrong.", "No.", None)]
    assert len({message.fingerprint() for message in messages}) == 3
    assert len({message.content_key() for message in messages}) == 1


def test_the_fingerprint_ignores_the_id_and_nothing_else():
    first = decode(raw())
    assert decode(raw(id="report-2")).fingerprint() == first.fingerprint()
    for name in set(VALID) - {"version", "id", "occurred_at", "messages"}:
        assert decode(raw(**{name: "other"})).fingerprint() != first.fingerprint(), name
    assert decode(raw(occurred_at="2026-01-31T13:00:00+01:00")).fingerprint() == first.fingerprint()


def test_the_content_key_is_equal_for_two_reports_of_one_answer():
    first = decode(raw())
    assert decode(raw(id="x", reason="y", reporter="z", severity="high")).content_key() == first.content_key()
    assert decode(raw(response="other")).content_key() != first.content_key()


def test_the_published_schema_takes_what_decodes_and_refuses_what_does_not():
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid(json.loads(raw()))
    assert validator.is_valid(json.loads(flagged(checks={"must_contain": ["x"]}, correction="y").encode()))
    for good in (BARE, {"category": None}, {"category": " "}, {"follow_up": None}, {"follow_up": "No."}):
        assert validator.is_valid(json.loads(raw(**good))), good
    for follow_up in (["No."], {"role": "user", "content": "No."}):
        assert validator.is_valid(json.loads(raw(follow_up=follow_up))), follow_up
    assert not validator.is_valid(json.loads(raw(follow_up="x" * 4001)))
    for bad in (raw(version=2), raw(id=...), raw(severity="extreme"), raw(category="!?"), raw(reason=5)):
        assert not validator.is_valid(json.loads(bad))


def test_an_event_is_read_back_as_it_was():
    event = Event(
        id="e1", type=EventType.REPORT_RESOLVED, occurred_at=utcnow(), subject="report-1", data={"generation": 3}
    )
    assert Event.model_validate_json(event.encode()) == event
