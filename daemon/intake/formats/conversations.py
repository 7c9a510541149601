"""Conversations as files write them: OpenAI's messages, ShareGPT's turns, and transcripts such as `Human: ...`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.intake.formats.cells import LeftOutError, Row, RowError, cell, decoded, is_empty, text

Messages = list[dict[str, Any]]

ROLES: Mapping[str, str] = {
    **{name: name for name in ("system", "developer", "user", "assistant", "tool", "function")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "bard", "ai", "chatbot", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function_response"), "tool"),
}
KEPT = ("name", "tool_calls", "tool_call_id", "function_call")
"""Fields of a message beside role and content; a data set's own fields (toxic, language, weight) are left away."""
_LABEL = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \t]*")
_TRANSCRIPT = re.compile(r"\A\s*Human:")


def messages_of(value: Any, name: str) -> Messages:
    """The messages of a list, a single message, a transcript, or a text (one message of the user).

    Raises:
        RowError: names the message that cannot be read.
    """
    value = opened(value)
    if isinstance(value, str):
        if _TRANSCRIPT.match(value):
            return _transcript(value)
        return [{"role": "user", "content": text(value, name)}]
    if isinstance(value, Mapping):
        inner = next((value[key] for key in ("messages", "conversation", "history") if key in value), None)
        if isinstance(inner, list):
            return messages_of(inner, f"{name}.messages")
        if not {"role", "from"} & set(value):
            question = next((value[key] for key in ("question", "query", "prompt", "input", "text") if key in value), 0)
            return messages_of(question, name) if isinstance(question, str | list) else _unreadable(name)
        value = [value]
    if not isinstance(value, list) or not value:
        return _unreadable(name)
    return [_message(item, f"{name}.{index}") for index, item in enumerate(value)]


def opened(value: Any) -> Any:
    """Messages, or a chat completion, that a table holds as JSON. An answer that is JSON itself stays a text."""
    found = decoded(value)
    if isinstance(found, Mapping):
        ours = _is_message(found) or isinstance(found.get("messages"), list) or isinstance(found.get("choices"), list)
    else:
        ours = isinstance(found, list) and bool(found) and all(_is_message(item) for item in found)
    return found if ours else value


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        role in value and any(text in value for text in ("content", "value", "text", "tool_calls"))
        for role in ("role", "from", "speaker")
    )


def split_answer(messages: Sequence[Row]) -> tuple[Messages, dict[str, Any]]:
    """The messages before the last answer, and that answer as a message.

    Raises:
        LeftOutError: when no message is the assistant's.
    """
    last = next((index for index in range(len(messages) - 1, -1, -1) if messages[index]["role"] == "assistant"), None)
    if last is None:
        raise LeftOutError("the conversation holds no answer")
    return [dict(message) for message in messages[:last]], dict(messages[last])


def answer_of(value: Any, name: str) -> str:
    """The text of an answer: a text, a message, a list that ends with one, or a chat completion.

    Raises:
        RowError: when the value is missing or holds no answer.
    """
    value = opened(value)
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, Mapping) and "role" not in part]
        if parts and all(isinstance(part, str) for part in parts):
            return "\n".join(map(str, parts))
        return answer_of(value[-1], name) if value else _unreadable_text(name)
    if isinstance(value, Mapping):
        for key in ("content", "value", "text", "message", "choices", "answer", "response", "output"):
            if key in value:
                return "" if value[key] is None else answer_of(value[key], name)
        return _unreadable_text(name)
    if not isinstance(value, str):
        return _unreadable_text(name)
    return value


def calls_of(value: Any) -> list[Any] | None:
    """The tool calls of an answer that is a message, or a chat completion."""
    value = opened(value)
    if isinstance(value, Mapping):
        inner = value.get("choices") or value.get("message")
        return value.get("tool_calls") or (calls_of(inner) if inner else None)
    return calls_of(value[-1]) if isinstance(value, list) and value else None


def question_of(row: Row) -> Messages:
    """The messages that a row asks with: a conversation or a prompt, after the system message if the row has one.

    Raises:
        RowError: when the row has neither.
    """
    prompt = cell(row, "prompt")
    given = cell(row, "messages") if prompt is None else prompt
    if given is None:
        raise RowError("prompt", "is missing or not a text")
    messages = messages_of(given, "prompt" if prompt is not None else "messages")
    if messages[-1]["role"] == "assistant" and not messages[-1].get("content"):
        messages = messages[:-1]
    addition = (row.get("input") or row.get("context")) if "instruction" in row else None
    if isinstance(addition, str) and addition.strip() and isinstance(messages[-1].get("content"), str):
        messages[-1] = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{addition}"}
    return with_context(row, messages)


def with_context(row: Row, messages: Messages) -> Messages:
    """The messages after the row's system message and its `history` of pairs."""
    history = decoded(row.get("history"))
    if isinstance(history, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        turns = [{"role": role, "content": turn[i]} for turn in history for i, role in enumerate(("user", "assistant"))]
        messages = [*turns, *messages]
    system = cell(row, "system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return messages


def is_transcript(value: object) -> bool:
    return isinstance(value, str) and _TRANSCRIPT.match(value) is not None


def _transcript(value: str) -> Messages:
    """A transcript in the form of hh-rlhf; `Human:` or `Assistant:` begins a turn after an empty line only."""
    parts = _LABEL.split(value)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[label], "content": said.strip()} for label, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _message(item: Any, name: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise RowError(name, "is not a message with a role and a content")
    given = next((item[key] for key in ("role", "from", "speaker") if not is_empty(item.get(key))), None)
    role = ROLES.get(str(given).strip().lower())
    if role is None:
        raise RowError(name, f"has the role {given!r:.40}; known are {', '.join(ROLES)}")
    content = next((item[key] for key in ("content", "value", "text") if key in item), None)
    kept = {key: item[key] for key in KEPT if not is_empty(item.get(key)) and item[key] != []}
    return {"role": role, "content": content, **kept}


def _unreadable(name: str) -> Messages:
    raise RowError(name, "is neither a text nor a list of messages")


def _unreadable_text(name: str) -> str:
    raise RowError(name, "is missing or not a text")
