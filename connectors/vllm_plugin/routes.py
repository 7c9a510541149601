"""The open routes of a vLLM server. Every other route answers 404, with or without an API key.

The list names what is open, so a route that a later vLLM adds is closed. A decoded path must equal an entry letter by
letter, so another spelling (`//v1/models`, `/v1/models/`) is another path, and closed. The gate is the outermost
middleware: vLLM's authentication, its own middleware and mounted apps are behind it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_wire import ADMIN_HEADER

ADMIN_PREFIX = "/erratad/v1/"
OPEN_ROUTES = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/resp_{id}",
    "/v1/responses/resp_{id}/cancel",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/health",
    "/ping",
    "/version",
)
"""What backends, load balancers and probes need. `{...}` stands for a text without a slash.

vLLM names responses `resp_...`; any other text would open `/v1/responses/render`, too.
"""
ADMIN_ROUTES = frozenset({"/tokenize", "/detokenize", "/metrics"})
"""What the daemon and Prometheus need besides: open to requests with the admin token."""
NEVER_OPEN = re.compile(r"/v1/(un)?load_lora_adapter|/invocations|/adapters(/.*)?", re.DOTALL)
"""Routes of vLLM that would change adapters without updating the table, or bypass `--api-key` (vLLM #58144)."""
ENTRY = re.compile(r"(/([A-Za-z0-9._-]+|\{[A-Za-z0-9_]+\}))+")
SHOWN_CHARS = 100
"""A refusal repeats this much of the path."""


def open_routes(text: str) -> tuple[str, ...]:
    """The entries of `ERRATAD_OPEN_ROUTES`, separated by commas or spaces.

    Raises:
        ValueError: an entry is no path, or names a route that cannot be opened.
    """
    entries = tuple(re.split(r"[,\s]+", text.strip(", \t\n"))) if text.strip(", \t\n") else ()
    for entry in entries:
        if not ENTRY.fullmatch(entry):
            raise ValueError(f"ERRATAD_OPEN_ROUTES: {entry!r} is no path such as /metrics or /v1/items/{{id}}")
        if NEVER_OPEN.fullmatch(entry):
            raise ValueError(f"ERRATAD_OPEN_ROUTES: {entry} cannot be opened; adapters change at {ADMIN_PREFIX} only")
    return entries


def route_path(scope: Scope) -> str:
    """The path that Starlette's router compares with its routes, i.e. without `root_path`."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root) and path[len(root) :][:1] in {"", "/"}:
        return path[len(root) :]
    return path


def has_token(scope: Scope, token: str) -> bool:
    """Whether the request brings the admin token, in erratad's header or as bearer token.

    vLLM's API key takes `Authorization`, so a request that needs both brings the token in erratad's header.
    """
    wanted = {ADMIN_HEADER.encode(): token.encode(), b"authorization": f"Bearer {token}".encode()}
    given = [hmac.compare_digest(value, wanted[name]) for name, value in scope["headers"] if name in wanted]
    return any(given)


class RouteGate:
    """Passes the requests of open routes on, and answers 404 to all others. `also_open`: further open routes."""

    def __init__(self, app: ASGIApp, *, token: str, also_open: Sequence[str] = (), raw_names: bool = True) -> None:
        self._app = app
        self._token = token
        self._raw_names = raw_names
        self._open = re.compile("|".join(_pattern(entry) for entry in (*OPEN_ROUTES, *also_open)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            return await self._app(scope, receive, send)
        path = route_path(scope)
        if self._passes(path, scope):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
            return await WebSocketClose()(scope, receive, send)
        return await _closed(path).response()(scope, receive, send)

    def _passes(self, path: str, scope: Scope) -> bool:
        if NEVER_OPEN.fullmatch(path):
            return False
        if path.startswith(ADMIN_PREFIX):
            return True  # each of these routes asks for the token itself
        if scope["type"] == "websocket" and not self._raw_names and not has_token(scope, self._token):
            return False  # a WebSocket names its model in a message
        return self._open.fullmatch(path) is not None or (
            path in ADMIN_ROUTES and scope["type"] == "http" and has_token(scope, self._token)
        )


def _pattern(entry: str) -> str:
    parts = re.split(r"(\{\w+\})", entry)
    return "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts)


def _closed(path: str) -> RequestRefused:
    way = f"needs the admin token ({ADMIN_HEADER})" if path in ADMIN_ROUTES else "is not open on this server"
    opened = "" if NEVER_OPEN.fullmatch(path) else "; serving.open_routes (ERRATAD_OPEN_ROUTES) opens further routes"
    return RequestRefused(HTTPStatus.NOT_FOUND, "NotFoundError", f"{path[:SHOWN_CHARS]} {way}{opened}")
