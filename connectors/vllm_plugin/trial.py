"""A candidate on trial inside a server: its share of the conversations (canary), or copies of requests (shadow).

A hash of candidate and conversation assigns each conversation to a side, without state, so all replicas agree.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Scope, Send

from connectors.vllm_plugin.inside import once
from connectors.vllm_wire import ShadowFigures, Trial

CONVERSATION_HEADER = "x-erratad-conversation"
SHADOW_PATHS = ("/v1/chat/completions", "/v1/completions")
SHADOW_TIMEOUT_S = 300.0
"""A copy that takes longer is stopped and counts as an error; it would block the drain of the candidate."""
STUCK_CHARS = 16
"""Broken weights produce one repeated character; an answer of at least this length made of it is unsound."""


def conversation_key(headers: Iterable[tuple[bytes, bytes]], body: dict[str, Any]) -> bytes:
    """Key of a conversation: its header, else the user, else its first messages, which stay the same as it grows."""
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


class AnswerRecorder:
    """Records an answer and its duration. With `send`, the messages are passed on; without, they are dropped."""

    def __init__(self, send: Send | None = None) -> None:
        self._send = send
        self._started = time.monotonic()
        self._body = bytearray()
        self.status = 0
        self.seconds = 0.0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            self.seconds = time.monotonic() - self._started
        if self._send is not None:
            await self._send(message)

    @property
    def sound(self) -> bool:
        """Whether the answer succeeded and every choice has content."""
        if not 200 <= self.status < 300:
            return False
        try:
            choices = json.loads(self._body)["choices"]
            return bool(choices) and all(_has_content(choice) for choice in choices)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False


def _has_content(choice: dict[str, Any]) -> bool:
    message = choice.get("message") or {}
    text = (message.get("content") or choice.get("text") or "").strip()
    stuck = len(text) >= STUCK_CHARS and len(set(text)) == 1
    return bool(message.get("tool_calls")) or bool(text and not stuck)


class Shadows:
    """Sends copies of requests to the candidate after the live answers were sent. No client waits for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def busy(self, trial: Trial) -> bool:
        return len(self._tasks) >= trial.concurrency

    def start(self, scope: Scope, raw: bytes, *, live: AnswerRecorder, figures: ShadowFigures) -> asyncio.Task[None]:
        task = asyncio.create_task(self._ask(scope, raw, live, figures))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, scope: Scope, raw: bytes, live: AnswerRecorder, figures: ShadowFigures) -> None:
        answer = AnswerRecorder()
        sound = False
        try:
            await asyncio.wait_for(self._app(scope, once(raw), answer.send), SHADOW_TIMEOUT_S)
            sound = answer.sound
        except Exception:  # noqa: BLE001, S110 - any exception counts as an error of the candidate, below
            pass
        figures.pairs += 1
        figures.errors += not sound
        figures.live_errors += not live.sound
        figures.seconds += answer.seconds
        figures.live_seconds += live.seconds
