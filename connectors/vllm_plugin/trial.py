"""A candidate on trial inside a server: which conversations it answers, and copies of requests that it answers unseen.

Every replica decides alike: a hash of candidate and conversation, and no state, says on which side a conversation is.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.vllm_wire import ShadowFigures, Trial

CONVERSATION_HEADER = "x-erratad-conversation"
SHADOW_PATHS = ("/v1/chat/completions", "/v1/completions")
SHADOW_TIMEOUT_S = 300.0
"""A copy that takes longer counts as an error; it would keep the candidate from being drained."""
STUCK_CHARS = 16
"""So many times the same character, and nothing else, is what a model with broken numbers writes."""


def conversation_key(headers: Iterable[tuple[bytes, bytes]], body: dict[str, Any]) -> bytes:
    """What tells a conversation apart: its header, else the user, else its first messages, which stay the same."""
    named = dict(headers).get(CONVERSATION_HEADER.encode())
    if named:
        return b"id:" + named
    if isinstance(user := body.get("user"), str) and user:
        return b"user:" + user.encode(errors="surrogatepass")
    return b"first:" + json.dumps(_beginning(body), sort_keys=True).encode()


def _beginning(body: dict[str, Any]) -> Any:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body.get("input", body.get("prompt"))
    users = (
        place for place, message in enumerate(messages) if isinstance(message, dict) and message.get("role") == "user"
    )
    return messages[: next(users, len(messages)) + 1]


class Taken:
    """An answer as it goes by, or only as it is made: its soundness and how long it took."""

    def __init__(self, send: Send | None = None) -> None:
        self._send = send
        self._begun = time.monotonic()
        self._body = bytearray()
        self.status = 0
        self.seconds = 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            self.seconds = time.monotonic() - self._begun
        if self._send is not None:
            await self._send(message)

    @property
    def sound(self) -> bool:
        """A successful answer in which every choice says something."""
        if not 200 <= self.status < 300:
            return False
        try:
            choices = json.loads(self._body)["choices"]
            return bool(choices) and all(_says_something(choice) for choice in choices)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False


def _says_something(choice: dict[str, Any]) -> bool:
    message = choice.get("message") or {}
    text = (message.get("content") or choice.get("text") or "").strip()
    stuck = len(text) >= STUCK_CHARS and len(set(text)) == 1
    return bool(message.get("tool_calls")) or bool(text and not stuck)


class Shadows:
    """Asks the candidate for its answers after the live ones went out; nobody waits for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def busy(self, trial: Trial) -> bool:
        return len(self._tasks) >= trial.concurrency

    def start(self, scope: Scope, raw: bytes, *, live: Taken, figures: ShadowFigures) -> asyncio.Task[None]:
        task = asyncio.create_task(self._ask(scope, raw, live, figures))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, scope: Scope, raw: bytes, live: Taken, figures: ShadowFigures) -> None:
        taken = Taken()
        sound = False
        try:
            await asyncio.wait_for(self._app(scope, _once(raw), taken.send), SHADOW_TIMEOUT_S)
            sound = taken.sound
        except Exception:  # noqa: BLE001, S110 - whatever the candidate raises is an error of its, counted below
            pass
        figures.pairs += 1
        figures.errors += not sound
        figures.live_errors += not live.sound
        figures.seconds += taken.seconds
        figures.live_seconds += live.seconds


def _once(raw: bytes) -> Receive:
    """An ASGI `receive` of a client that sends a body and never leaves."""
    messages = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("a client that never leaves says nothing more")

    return receive
