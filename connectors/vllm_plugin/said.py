"""Reads vLLM's answers: chat completions and the Responses API, in one piece or as a stream of events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_DATA = b"data:"


class Answer(Protocol):
    """An answer that grows while it is sent."""

    id: str | None
    size: int
    """Characters so far."""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        ...

    def whole(self, body: Any) -> None:
        """Read an answer in one piece."""
        ...

    def event(self, body: Any) -> None:
        """Read one event of a stream."""
        ...

    def choices(self) -> list[dict[str, Any]]:
        """Each with `text`, `reasoning` and `tool_calls`."""
        ...


class Events:
    """Takes a stream of server-sent events apart; events that are no JSON objects are skipped."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._rest = b""

    @property
    def waiting(self) -> int:
        return len(self._rest)

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                try:
                    value = json.loads(line[len(_DATA) :])
                    if isinstance(value, dict):
                        self._take(value)
                except (ValueError, TypeError, KeyError, AttributeError):
                    continue  # "[DONE]", or a shape of a later vLLM: the exchange stays partial


@dataclass(slots=True)
class _Said:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    ended: bool = False

    def add(self, text: Any, reasoning: Any) -> int:
        """Returns the number of characters."""
        for part, values in ((text, self.text), (reasoning, self.reasoning)):
            if part:
                values.append(str(part))
        return len(text or "") + len(reasoning or "")

    def call(self, index: int, name: Any, arguments: Any) -> int:
        call = self.calls.setdefault(index, {"name": "", "arguments": ""})
        call["name"] += name or ""
        call["arguments"] += arguments or ""
        return len(name or "") + len(arguments or "")

    def shown(self) -> dict[str, Any]:
        calls = [{"type": "function", "function": self.calls[index]} for index in sorted(self.calls)]
        return {"text": "".join(self.text), "reasoning": "".join(self.reasoning), "tool_calls": calls}


class ChatAnswer:
    """`/v1/chat/completions`."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.size = 0
        self._said: dict[int, _Said] = {}

    @property
    def ended(self) -> bool:
        return bool(self._said) and all(said.ended for said in self._said.values())

    def whole(self, body: Any) -> None:
        self._take(body, "message")

    def event(self, body: Any) -> None:
        self._take(body, "delta")

    def _take(self, body: Mapping[str, Any], part: str) -> None:
        self.id = self.id or str(body["id"])
        for choice in body.get("choices") or ():
            said = self._said.setdefault(choice["index"], _Said())
            message = choice.get(part) or {}
            self.size += said.add(message.get("content"), message.get("reasoning") or message.get("reasoning_content"))
            for place, call in enumerate(message.get("tool_calls") or ()):
                function = call.get("function") or {}
                self.size += said.call(call.get("index", place), function.get("name"), function.get("arguments"))
            said.ended = said.ended or choice.get("finish_reason") is not None

    def choices(self) -> list[dict[str, Any]]:
        return [self._said[index].shown() for index in sorted(self._said)]


class ResponsesAnswer:
    """`/v1/responses`. A stream ends with the whole answer; before that, its texts are read as they come."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.ended = False
        self.size = 0
        self._said = _Said()

    def whole(self, body: Any) -> None:
        self.id = str(body["id"])
        self._said, self.ended = _Said(), body.get("status") != "in_progress"
        for place, item in enumerate(body.get("output") or ()):
            kind = item.get("type")
            parts = [part.get("text") or "" for part in item.get("content") or ()]
            if kind == "message":
                self._said.add("\n".join(parts), None)
            elif kind == "reasoning":
                self._said.add(None, "\n".join(parts))
            elif kind == "function_call":
                self._said.call(place, item.get("name"), item.get("arguments"))

    def event(self, body: Any) -> None:
        kind = str(body.get("type"))
        if kind == "response.created":
            self.id = str(body["response"]["id"])
        elif kind in {"response.completed", "response.incomplete"}:
            self.whole(body["response"])
        elif kind == "response.output_text.delta":
            self.size += self._said.add(body["delta"], None)
        elif kind == "response.reasoning_text.delta":
            self.size += self._said.add(None, body["delta"])
        elif kind == "response.function_call_arguments.delta":
            self.size += self._said.call(body.get("output_index", 0), None, body["delta"])

    def choices(self) -> list[dict[str, Any]]:
        return [self._said.shown()]


ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "/v1/chat/completions": ChatAnswer,
    "/v1/responses": ResponsesAnswer,
}
"""The routes whose exchanges are kept."""
