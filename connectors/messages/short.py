"""The short form of a report: it names a completion, and what the user said of its answer.

Conversation, answer and generation come later, from the servers' own record of the completion
(`daemon.evidence.completions`). Until then AWAITED stands in their place, so that such a message is stored, redacted
and counted like every other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from connectors.messages.shapes import is_blank

AWAITED = "(of the completion)"
"""`model` of a message whose conversation is not known yet."""
UNTIMED = "1970-01-01T00:00:00Z"
"""`occurred_at` of a message without one: a message that is sent again must be the same message."""
UNNAMED = "unnamed"
"""`reporter` of a message without one."""
SAYS = ("rating", "comment", "edit", "follow_up", "reason", "correction", "checks", "category")
"""A short form has at least one of these."""
NAMES = ("completion_id", "response_id", "generation_id")
CONVERSATION = ("messages", "response", "tool_calls")
MAX_COMMENT_CHARACTERS = 4000
RATINGS = r"^\s*([Uu][Pp]|[Dd][Oo][Ww][Nn]|[Tt]humbs?[_ -]?([Uu]p|[Dd]own)|[Ll]ike|[Dd]islike|[+-]?1|👍|👎)\s*$"


def is_short(value: Mapping[str, Any]) -> bool:
    """Whether the message names a completion and holds no conversation and no answer."""
    return not any(value.get(name) is not None for name in CONVERSATION) and any(
        value.get(name) is not None for name in NAMES
    )


def completed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The message in the full form, with AWAITED in place of conversation, answer and generation.

    Raises:
        ValueError: it says nothing, or a field cannot be read.
    """
    given = {name: one for name, one in value.items() if _is_given(one) and name != "model"}
    if not any(name in given for name in NAMES):
        raise ValueError("completion_id: is blank")
    if not any(name in given for name in SAYS):
        raise ValueError("says nothing about the answer; send rating, comment, edit or follow_up")
    for name, most in (("comment", MAX_COMMENT_CHARACTERS), ("edit", None)):
        if name in given and not isinstance(given[name], str):
            raise ValueError(f"{name}: must be a text")
        if most is not None and len(given.get(name, "")) > most:
            raise ValueError(f"{name}: at most {most} characters are taken")
    if not isinstance(given.get("follow_up", ""), str | list | dict):
        raise ValueError("follow_up: must be a text or a message")  # noqa: TRY004 - a message's fault, as all here
    if type(given.get("choice", 0)) is not int or given.get("choice", 0) < 0:
        raise ValueError("choice: must be the number of a choice of the completion, from 0")
    return {
        "version": 1,
        "id": _id_of(given),
        "occurred_at": UNTIMED,
        "reporter": UNNAMED,
        **given,
        "model": AWAITED,
        "messages": [{"role": "user", "content": ""}],
        "response": "",
    }


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and is_blank(value))


def _id_of(given: Mapping[str, Any]) -> str:
    """An id for a message without one: equal messages are one message."""
    canonical = json.dumps(given, sort_keys=True, ensure_ascii=True)
    return f"feedback-{hashlib.sha256(canonical.encode()).hexdigest()[:32]}"


def branches(full: list[str]) -> list[dict[str, Any]]:
    """For the JSON Schema: a message is in the full form, with these fields, or in the short form."""
    text = {"type": ["string", "null"]}
    said = {
        "rating": {"anyOf": [{"type": "string", "pattern": RATINGS}, {"enum": [1, -1, None]}]},
        "comment": {**text, "maxLength": MAX_COMMENT_CHARACTERS},
        "edit": text,
        "choice": {
            "type": ["integer", "null"],
            "description": "Which choice of the completion; needed if it has several.",
        },
    }
    absent = {name: {"type": "null"} for name in CONVERSATION}
    names = [{"required": [name], "properties": {name: {"type": ["string", "integer"]}}} for name in NAMES]
    return [
        {"title": "full form", "required": full},
        {
            "title": "short form: conversation and answer come from the servers' record of the completion",
            "properties": {**absent, **said},
            "allOf": [{"anyOf": names}, {"anyOf": [{"required": [name]} for name in SAYS]}],
        },
    ]


EXAMPLES: dict[str, dict[str, Any]] = {
    "thumbs down": {
        "summary": "Short form: a thumb down, with the user's words",
        "value": {
            "completion_id": "chatcmpl-4f1c",
            "rating": "down",
            "comment": "It named Sydney.",
            "reporter": "user-4711",
        },
    },
    "edit": {
        "summary": "Short form: the user wrote a better answer",
        "value": {"completion_id": "chatcmpl-4f1c", "edit": "The capital of Australia is Canberra."},
    },
    "thumbs up": {
        "summary": "Short form: a thumb up. It makes no report: the gate asks the question again",
        "value": {"completion_id": "chatcmpl-4f1c", "rating": "up", "reporter": "user-4711"},
    },
    "full form": {
        "summary": "With conversation and answer: needs no record of the servers",
        "value": {
            "version": 1,
            "id": "5c0e6a52-7c0f-4a4e-9a53-0d9f5f1f7c11",
            "occurred_at": "2026-01-31T12:00:00Z",
            "model": "aligned-g000017",
            "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
            "response": "The capital of Australia is Sydney.",
            "reason": "It named Sydney.",
            "completion_id": "chatcmpl-4f1c",
            "reporter": "user-4711",
            "correction": "The capital of Australia is Canberra.",
            "checks": {"must_contain": ["Canberra"]},
        },
    },
}
"""For the API's description."""
