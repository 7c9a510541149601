"""The shapes in which clients send reports: each with one clear meaning is taken, and reads as that meaning."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from connectors.messages import FlaggedResponse, MessageRejected, Severity, decode, json_schema
from connectors.messages.shapes import is_blank
from daemon.records import conversation

ASKED: dict[str, Any] = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": '{"city": "Oslo"}'}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"t": 4}'}
OPENAI_NULLS = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
VLLM_NULLS = {**OPENAI_NULLS, "annotations": None, "tool_calls": [], "reasoning_content": None, "reasoning": None}


def report(**changes: Any) -> dict[str, Any]:
    values = {
        "version": 1,
        "id": "shape-1",
        "occurred_at": "2026-11-26T10:00:00Z",
        "model": "aligned-g000000",
        "messages": [ASKED],
        "response": "A",
        "reason": "wrong",
        "category": "wrong-fact",
        "reporter": "user-1",
        **changes,
    }
    return {name: value for name, value in values.items() if value is not ...}


def taken(**changes: Any) -> FlaggedResponse:
    """The report as it is read, and read again as it is stored. The published schema takes it, too."""
    values = report(**changes)
    message = decode(json.dumps(values).encode())
    assert FlaggedResponse.model_validate(message.model_dump(mode="json", exclude_none=True)) == message
    assert Draft202012Validator(json_schema()).is_valid(values)
    return message


def with_parts(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "tool calls": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT],
    "dump of OpenAI's library": [
        ASKED,
        {"role": "assistant", "content": None, **OPENAI_NULLS, "tool_calls": [CALL]},
        RESULT,
    ],
    "dump of vLLM's answer": [ASKED, {"role": "assistant", "content": "Hello", **VLLM_NULLS}, ASKED],
    "function role": [
        ASKED,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ],
    "two turns of one role": [ASKED, ASKED, {"role": "assistant", "content": "c"}, {"role": "assistant"}, ASKED],
    "system in the middle": [ASKED, {"role": "assistant", "content": "b"}, {"role": "system", "content": "c"}, ASKED],
    "system at the end": [ASKED, {"role": "system", "content": "be nice"}],
    "starts with the assistant": [{"role": "assistant", "content": "Welcome!"}, ASKED],
    "developer": [{"role": "developer", "content": "Be brief"}, ASKED],
    "tool without an id": [ASKED, {"role": "tool", "content": "1"}],
    "a role of the model's own": [ASKED, {"role": "observation", "content": "1"}],
    "thoughts": [ASKED, {"role": "assistant", "content": "b", "reasoning_content": "hm"}, ASKED],
    "unknown fields": [{**ASKED, "cache_control": {"type": "ephemeral"}, "id": 5}],
}


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_is_taken_as_clients_give_it_back(messages: list[dict[str, Any]]) -> None:
    message = taken(messages=messages)
    assert [one.role for one in message.messages] == [one["role"] for one in messages]
    assert [one.text for one in message.messages] == [one.get("content") or "" for one in messages]
    assert message.not_trainable is None


def test_chat_templates_get_what_vllm_hands_to_them() -> None:
    thinking = {"role": "assistant", "content": "b", "tool_calls": [CALL], "reasoning_content": "hm", "refusal": None}
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    plain = {"role": "assistant", "content": "c", **VLLM_NULLS}
    turns = conversation(taken(messages=[{"role": "User", "content": parts}, thinking, RESULT, plain, ASKED]))
    assert list(turns) == [
        {"role": "user", "content": "x\ny"},
        {
            "role": "assistant",
            "content": "b",
            "tool_calls": [CALL],
            "reasoning": "hm",
            "reasoning_content": "hm",
        },
        RESULT,
        {"role": "assistant", "content": "c"},
        ASKED,
    ]


@pytest.mark.parametrize(
    ("part", "kind", "shown"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}, "an image", r"[image "),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "a sound", "[audio "),
        ({"type": "file", "file": {"file_id": "f1"}}, "a file", "[file "),
        ({"type": "video_url", "video_url": {"url": "http://x"}}, "a video", "[video "),
        ({"type": "refusal", "refusal": "I cannot"}, "a refusal part", "[refusal: I cannot]"),
        ({"type": "hologram", "data": 1}, "hologram", "[hologram "),
        ({"image_url": "http://x"}, "part", "[part "),
        ({"type": ["odd"]}, "part", "[part "),
    ],
)
def test_what_is_no_text_becomes_a_placeholder_and_is_never_trained_on(part: Any, kind: str, shown: str) -> None:
    message = taken(messages=with_parts({"type": "text", "text": "What is this?"}, part))
    assert message.not_trainable == f"message 1 holds {kind}"
    assert message.messages[0].text.startswith(f"What is this?\n{shown}")
    assert b"base64" not in message.encode()


def test_two_images_are_two_conversations_and_one_image_is_one() -> None:
    first, again, other = (
        taken(messages=with_parts({"type": "image_url", "image_url": {"url": url}})).content_key() for url in "aab"
    )
    assert first == again
    assert first != other


def test_a_sound_or_a_refusal_beside_the_text_is_never_trained_on() -> None:
    spoken = taken(messages=[ASKED, {"role": "assistant", "content": None, "audio": {"id": "a", "data": "AA"}}, ASKED])
    assert spoken.not_trainable == "message 2 holds a sound"
    refused = taken(messages=[ASKED, {"role": "assistant", "content": None, "refusal": "No."}, ASKED])
    assert refused.not_trainable == "message 2 holds a refusal part"
    assert [one.messages[1].shown.partition(" ")[0] for one in (spoken, refused)] == ["[audio", "[refusal:"]


def test_an_empty_text_part_is_skipped() -> None:
    assert taken(messages=with_parts({"type": "text", "text": None}, "x")).messages[0].text == "x"


# --- the flagged answer ---


@pytest.mark.parametrize("response", ["", None, " \n ", "\u200b\ufeff"])
def test_no_answer_is_an_answer(response: str | None) -> None:
    message = taken(response=response)
    assert message.response == (response or "")
    assert (message.answered, message.shown_response) == (False, "(the answer is empty)")


@pytest.mark.parametrize(
    "changes",
    [
        {"response": None, "tool_calls": [CALL]},
        {"response": None, "messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"response": ..., "messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"response": "", "messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
    ],
)
def test_an_answer_may_be_tool_calls_only(changes: dict[str, Any]) -> None:
    message = decode(json.dumps(report(**changes)).encode())
    assert (message.response, message.tool_calls, message.answered) == ("", [CALL], True)
    assert [one.role for one in message.messages] == ["user"]
    assert message.shown_response == '[calls lookup with {"city": "Oslo"}]'
    assert message.answer_turn() == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert message.content_key() != taken(response="").content_key()


def test_a_deprecated_function_call_is_a_tool_call() -> None:
    last = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    message = taken(messages=[ASKED, last], response=None)
    assert message.tool_calls == [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize("response", ["A", None, ...])
def test_a_conversation_that_ends_with_the_flagged_answer_is_cut_before_it(response: Any) -> None:
    values = report(messages=[ASKED, {"role": "assistant", "content": "A"}], response=response)
    assert decode(json.dumps(values).encode()).content_key() == taken().content_key()


def test_a_conversation_that_ends_with_another_answer_is_refused() -> None:
    with pytest.raises(MessageRejected, match="the last message is another answer"):
        taken(messages=[ASKED, {"role": "assistant", "content": "B"}])


def test_a_whole_message_as_the_answer_is_its_text() -> None:
    answer = {"role": "assistant", "content": "A", **VLLM_NULLS, "reasoning": "hm"}
    message = taken(response=answer)
    assert (message.response, message.tool_calls, message.metadata) == ("A", None, {"response.reasoning": "hm"})
    assert taken(response=[{"type": "text", "text": "A"}, "B"]).response == "A\nB"
    assert taken(response={"role": "assistant", "content": None, "refusal": "No."}).response == "No."


# --- the other fields ---


@pytest.mark.parametrize("blank", ["", "   ", "\u200b", "\u2060 \ufeff", "\u3164", None])
def test_a_blank_correction_or_reason_is_absent(blank: str | None) -> None:
    message = taken(correction=blank, reason=blank)
    assert (message.correction, message.reason) == (None, "")
    assert message.fingerprint() == taken(correction=..., reason=...).fingerprint()


@pytest.mark.parametrize("text", ["a", " 是 ", "\u200b.", "👍🏽", "\u0301x"])
def test_what_shows_something_is_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_null_is_absent_in_every_optional_field() -> None:
    optional = ("severity", "correction", "metadata", "tenant", "locale", "checks", "reason", "tool_calls")
    assert taken(**dict.fromkeys(optional)) == taken(reason=...)
    names = ("must_contain", "must_not_contain", "regex", "json_schema", "max_words")
    assert taken(checks={**dict.fromkeys(names), "max_words": 5}) == taken(checks={"max_words": 5})


MEANINGS: dict[str, tuple[dict[str, Any], Callable[[FlaggedResponse], Any], Any]] = {
    "severity in capitals": ({"severity": "HIGH"}, lambda one: one.severity, Severity.HIGH),
    "category in words": ({"category": "Wrong Fact"}, lambda one: one.category, "wrong-fact"),
    "category as it was taken before": ({"category": "a_-b--"}, lambda one: one.category, "a_-b--"),
    "category in another script": ({"category": "Ложь / факт"}, lambda one: one.category, "ложь-факт"),
    "e-mail": ({"reporter": "anna+test@example.org"}, lambda one: one.reporter, "anna+test@example.org"),
    "reporter's name": ({"reporter": " Анна Ы "}, lambda one: one.reporter, "Анна Ы"),
    "reporter's number": ({"reporter": 4711, "tenant": 7}, lambda one: (one.reporter, one.tenant), ("4711", "7")),
    "blank tenant": ({"tenant": " "}, lambda one: one.tenant, None),
    "numeric id": ({"id": 4711}, lambda one: one.id, "4711"),
    "seconds": ({"occurred_at": 1764150000}, lambda one: one.occurred_at.isoformat(), "2025-11-26T09:40:00+00:00"),
    "milliseconds": ({"occurred_at": 1764150000500.0}, lambda one: one.occurred_at.microsecond, 500_000),
    "unknown field": ({"trace_id": "abc"}, lambda one: one.metadata, {"trace_id": "abc"}),
    "unknown null": ({"trace_id": None}, lambda one: one.metadata, {}),
    "unknown field beside metadata": (
        {"trace_id": "abc", "metadata": {"trace_id": 1, "a": 2}},
        lambda one: one.metadata,
        {"trace_id": 1, "a": 2},
    ),
    "unknown check": (
        {"checks": {"must_contains": ["x"], "max_words": 5}},
        lambda one: one.metadata,
        {"checks.must_contains": ["x"]},
    ),
    "a field that is computed": ({"not_trainable": "no"}, lambda one: (one.not_trainable, one.metadata), (None, {})),
}


@pytest.mark.parametrize(("changes", "read", "expected"), MEANINGS.values(), ids=MEANINGS)
def test_what_has_one_clear_meaning_is_taken(
    changes: dict[str, Any], read: Callable[[FlaggedResponse], Any], expected: Any
) -> None:
    assert read(taken(**changes)) == expected
