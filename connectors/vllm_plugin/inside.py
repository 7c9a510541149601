"""Requests of the plugin to its own server, inside the process and below vLLM's authentication."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope

REFUSED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Statuses by which vLLM refuses the content of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """`content` is the parsed JSON body, None without one."""

    status: int
    content: Any

    @property
    def refused(self) -> bool:
        return self.status in REFUSED


async def ask(app: ASGIApp, scope: Scope, path: str, body: Mapping[str, Any]) -> Reply:
    """Ask a route of the server; `scope` is that of any request. An exception of the app is a reply of status 500."""
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    path = scope.get("root_path", "") + path
    inner = {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
    status, received = 0, bytearray()

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        received.extend(message.get("body", b""))

    try:
        await app(inner, once(raw), send)
        return Reply(status=status, content=json.loads(received or b"null"))
    except Exception:  # noqa: BLE001 - vLLM raises what it did not foresee; the caller decides what a failure means
        return Reply(status=HTTPStatus.INTERNAL_SERVER_ERROR, content=None)


def once(raw: bytes) -> Receive:
    """An ASGI `receive` of a client that sends one body and never disconnects."""
    messages = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("a client that never disconnects sends nothing more")

    return receive
