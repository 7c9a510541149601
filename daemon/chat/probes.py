"""Conversations by which a server and the trainer are compared: one for each way in which templates differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'},
}

PROBES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "a question": [{"role": "user", "content": "What is the capital of Norway?"}],
    "white space and other scripts": [{"role": "user", "content": "  Grüße, 世界! 🙂\n\n\tTwo  spaces. "}],
    "a system message": [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "What is the capital of Norway?"},
    ],
    "a developer message": [
        {"role": "developer", "content": "Answer in one sentence."},
        {"role": "user", "content": "What is the capital of Norway?"},
    ],
    "an earlier answer": [
        {"role": "user", "content": "What is the capital of Norway?"},
        {"role": "assistant", "content": "Oslo.\n"},
        {"role": "user", "content": "And of Sweden?"},
    ],
    "parts of content": [
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": "the capital?"}]}
    ],
    "a tool call": [
        {"role": "user", "content": "How is the weather in Oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": -3}'},
        {"role": "user", "content": "And tomorrow?"},
    ],
    "two calls of tools": [
        {"role": "user", "content": "How is the weather in Oslo and in Bergen?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [_CALL, {**_CALL, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "cold"},
        {"role": "tool", "tool_call_id": "call_2", "content": "wet"},
    ],
}
"""Name -> conversation, up to the start of an answer."""
