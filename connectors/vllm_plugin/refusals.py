"""Counts the requests under the alias that vLLM refused and would have accepted without the guidance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Scope

from connectors.vllm_plugin.inside import ask
from connectors.vllm_plugin.traffic import RequestCounts

BATCH_PATH = "/v1/chat/completions/batch"
CHECKED_PATHS = ("/v1/chat/completions", BATCH_PATH, "/v1/responses", "/v1/messages")
TIMEOUT_S = 30.0


class RefusalChecks:
    """Has vLLM tokenize a refused request with and without its guidance, after the client got its answer.

    One check runs at a time; refusals during a check are not checked, so the count is a lower bound. vLLM 0.32 closes
    its routes that render a whole request unless it was started with `--enable-scale-out`.
    """

    def __init__(self, app: ASGIApp, *, model: str, counts: RequestCounts) -> None:
        self._app = app
        self._model = model
        self._counts = counts
        self._running: asyncio.Task[None] | None = None

    def start(self, scope: Scope, path: str, *, plain: dict[str, Any], guided: dict[str, Any], name: str) -> None:
        """Check one refused request of the generation `name`, unless a check is running."""
        if path in CHECKED_PATHS and guided != plain and (self._running is None or self._running.done()):
            self._running = asyncio.create_task(self._check(scope, path, plain, guided, name))

    async def _check(self, scope: Scope, path: str, plain: dict[str, Any], guided: dict[str, Any], name: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if await self._accepted(scope, path, plain) and not await self._accepted(scope, path, guided):
                    self._counts.refuse(name)
        except (TimeoutError, KeyError, TypeError):
            pass  # not counted: the server is too slow, or the body has no conversation

    async def _accepted(self, scope: Scope, path: str, body: dict[str, Any]) -> bool:
        """Whether the template takes the conversation and the prompt leaves room for an answer."""
        for route, question in _questions(path, body):
            reply = await ask(self._app, scope, route, {**question, "model": self._model})
            if reply.status != HTTPStatus.OK:
                return False
            if route == "/tokenize" and reply.content["count"] >= reply.content["max_model_len"]:
                return False
        return True


def _questions(path: str, body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Route and body that tokenize the request; several for a batch."""
    if path == "/v1/messages":
        yield "/v1/messages/count_tokens", body  # it refuses a prompt that is too long
    elif path == "/v1/responses":
        system = [{"role": "system", "content": text}] if (text := body.get("instructions")) else []
        turns = [{"role": "user", "content": asked}] if isinstance(asked := body["input"], str) else asked
        yield "/tokenize", {"messages": [*system, *turns]}
    elif path == BATCH_PATH:
        yield from (("/tokenize", {**body, "messages": messages}) for messages in body["messages"])
    else:
        yield "/tokenize", body
