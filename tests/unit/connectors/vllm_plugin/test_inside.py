"""Requests of the plugin to its own server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from connectors.vllm_plugin.inside import ask


def test_the_app_gets_the_body_as_from_a_client_under_its_root_path() -> None:
    got: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        headers = dict(scope["headers"])
        assert int(headers[b"content-length"]) == len(message["body"])
        got.update(path=scope["path"], app=scope["app"], headers=headers, body=json.loads(message["body"]))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b'{"a":', "more_body": True})
        await send({"type": "http.response.body", "body": b" 1}"})

    headers = [(b"authorization", b"Bearer secret"), (b"content-length", b"999")]
    scope = {"type": "http", "path": "/api/v1/x", "root_path": "/api", "app": "the app", "headers": headers}
    reply = asyncio.run(ask(app, scope, "/tokenize", {"model": "base"}))
    assert (reply.status, reply.content, reply.refused) == (201, {"a": 1}, False)
    assert (got["path"], got["app"], got["body"]) == ("/api/tokenize", "the app", {"model": "base"})
    assert got["headers"][b"content-type"] == b"application/json"
    assert b"authorization" not in got["headers"]
    assert scope["path"] == "/api/v1/x"


def test_an_app_that_raises_or_sends_no_json_is_a_failed_reply() -> None:
    async def raising(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ValueError("not foreseen")

    async def no_json(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    for app in (raising, no_json):
        assert asyncio.run(ask(app, {"type": "http"}, "/tokenize", {})).status == 500
