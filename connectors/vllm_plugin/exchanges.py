"""What the server answered lately, so that the daemon can verify reports. In memory only; nothing is written or logged.

Bounded by age and by bytes; the oldest goes first. Off unless ERRATAD_EXCHANGES is `on`. Requests of the daemon itself
(with the admin token) are not kept, and neither are requests to the base model under its raw name.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Send

from connectors.vllm_plugin.said import ANSWERS, Answer, Events

REQUEST_FIELDS = ("messages", "input", "instructions", "previous_response_id")
"""What the client sent of the conversation: in chat completions, or in the Responses API."""
FORCING_FIELDS = (
    *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "logit_bias"),
    *("allowed_token_ids", "bad_words", "continue_final_message", "echo", "chat_template", "prompt_embeds", "prompt"),
    *("previous_response_id", "vllm_xargs", "documents", "truncate_prompt_tokens", "min_tokens", "ignore_eos"),
    *("kv_transfer_params", "ec_transfer_params", "mm_payload"),
)
"""Options by which a client can make the model say, or be asked, something else than its conversation shows."""
HARMLESS_KWARGS = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
"""Of `chat_template_kwargs`: how much the model thinks."""
USUAL_SAMPLING = {
    "temperature": (0.0, 1.2),
    "repetition_penalty": (1.0, 1.3),
    "frequency_penalty": (0.0, 1.0),
    "presence_penalty": (0.0, 1.0),
}
"""Beyond these values the sampling distorts what the model says."""
SHARE_OF_ONE = 8
"""One exchange may take this part of the whole memory; a longer one is not kept."""
OVERHEAD_BYTES = 400
"""Python's own memory per exchange, roughly."""
MAX_PER_ID = 8
"""A client chooses its id by the header X-Request-Id, so several exchanges may have one. No one replaces another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSettings:
    ttl_s: float = 86_400.0
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    id: str
    at: float
    document: bytes

    @property
    def size(self) -> int:
        return len(self.document) + 2 * len(self.id) + OVERHEAD_BYTES


class Exchanges:
    """The exchanges of one server process, by completion id. `settings` is None: none are kept."""

    def __init__(self, settings: ExchangeSettings | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._numbers: dict[str, list[int]] = {}
        self._next = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def on(self) -> bool:
        return self._settings is not None

    def recorder(self, path: str, generation: str, body: Mapping[str, Any], send: Send) -> ExchangeRecorder | None:
        """Records the answer to a request as it is sent; None if this one is not kept."""
        answer = ANSWERS.get(path)
        if self._settings is None or answer is None:
            return None
        limit = self._settings.max_bytes // SHARE_OF_ONE
        return ExchangeRecorder(self, answer(), generation=generation, body=body, send=send, limit=limit)

    def add(self, completion_id: str, document: bytes) -> None:
        settings = self._settings
        numbers = self._numbers.get(completion_id, ())
        kept = _Kept(id=completion_id, at=self._clock(), document=document)
        if settings is None or len(numbers) >= MAX_PER_ID or kept.size > settings.max_bytes // SHARE_OF_ONE:
            return
        self._kept[self._next] = kept
        self._numbers.setdefault(completion_id, []).append(self._next)
        self._next += 1
        self.size_bytes += kept.size
        self.forget_old()

    def find(self, completion_id: str) -> list[dict[str, Any]]:
        self.forget_old()
        return [json.loads(self._kept[number].document) for number in self._numbers.get(completion_id, ())]

    def delete(self, completion_id: str) -> int:
        """Forget all exchanges with this id; returns their number."""
        numbers = list(self._numbers.get(completion_id, ()))
        for number in numbers:
            self._forget(number)
        return len(numbers)

    def forget_old(self) -> None:
        """Forget what is too old or too much. The daemon's look at the server's state calls it every few seconds."""
        settings = self._settings
        while settings is not None and self._kept:
            number, oldest = next(iter(self._kept.items()))
            if self.size_bytes <= settings.max_bytes and self._clock() - oldest.at <= settings.ttl_s:
                return
            self._forget(number)

    def _forget(self, number: int) -> None:
        kept = self._kept.pop(number)
        self.size_bytes -= kept.size
        numbers = self._numbers[kept.id]
        numbers.remove(number)
        if not numbers:
            del self._numbers[kept.id]


class ExchangeRecorder:
    """Passes the messages of one answer on, and reads along."""

    def __init__(
        self, exchanges: Exchanges, answer: Answer, *, generation: str, body: Mapping[str, Any], send: Send, limit: int
    ) -> None:
        self._exchanges = exchanges
        self._answer = answer
        self._generation = generation
        self._body = body
        self._send = send
        self._limit = limit
        self._events: Events | None = None
        self._whole = bytearray()
        self._size = 0
        self._ended = False
        self._kept = False

    async def send(self, message: Message) -> None:
        await self._send(message)
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            self._kept = message["status"] == 200
            if b"event-stream" in headers.get(b"content-type", b""):
                self._events = Events(self._answer.event)
        elif message["type"] == "http.response.body" and self._kept:
            self._read(message.get("body", b""))
            self._ended = not message.get("more_body", False)

    def _read(self, chunk: bytes) -> None:
        if self._events is not None:
            self._events.feed(chunk)
            self._size = self._answer.size + self._events.waiting
        else:
            self._whole += chunk
            self._size = len(self._whole)
        if self._size > self._limit:
            self._kept = False
            self._whole.clear()

    def close(self) -> None:
        """Keep the exchange; one that was cut off is kept as far as it was sent."""
        if self._kept and self._events is None and self._ended:
            try:
                self._answer.whole(json.loads(self._whole))
            except (ValueError, TypeError, KeyError, AttributeError):
                return
        if not self._kept or self._answer.id is None:
            return
        document = {
            "generation": self._generation,
            "request": {name: self._body[name] for name in REQUEST_FIELDS if self._body.get(name) is not None},
            "choices": self._answer.choices(),
            "partial": not (self._ended and self._answer.ended),
            "forced": forced(self._body),
        }
        self._exchanges.add(self._answer.id, json.dumps(document, separators=(",", ":")).encode())


def forced(body: Mapping[str, Any]) -> list[str]:
    """The options of a request by which the client decides what is said."""
    found = [name for name in FORCING_FIELDS if body.get(name)]
    text = body.get("text")
    for name, form in (("response_format", body.get("response_format")), ("text", _field(text, "format"))):
        if _field(form, "type") not in {None, "text", "json_object"}:
            found.append(name)
    if body.get("tool_choice") not in (None, "auto", "none"):
        found.append("tool_choice")
    kwargs = body.get("chat_template_kwargs")
    if kwargs and not (isinstance(kwargs, dict) and kwargs.keys() <= HARMLESS_KWARGS):
        found.append("chat_template_kwargs")
    for name, (low, high) in USUAL_SAMPLING.items():
        value = body.get(name)
        if isinstance(value, int | float) and not low <= value <= high:
            found.append(name)
    if body.get("truncation") not in (None, "disabled"):
        found.append("truncation")
    if body.get("add_generation_prompt") is False:
        found.append("add_generation_prompt")
    return found


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
