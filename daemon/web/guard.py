"""Checks before routing: the Host header, cross-site requests, and the size of the body."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.config.web import LOOPBACK

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class ErrorDetail(BaseModel):
    reason: str
    """A code for programs, from a fixed set."""
    detail: str
    """A sentence for people: the problem and the next step."""


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


class Guard:
    """ASGI middleware.

    `allowed_hosts`: accepted Host headers, which protects a loopback port against DNS rebinding. None: any host.
    `max_body_bytes`: larger bodies are refused while they arrive, so they are never held in memory completely.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, allowed_hosts: frozenset[str] | None) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, self._bounded(receive), send)

    def _refusal(self, method: str, headers: Headers) -> JSONResponse | None:
        if self._allowed_hosts is not None and _host_name(headers.get("host", "")) not in self._allowed_hosts:
            return refuse(421, "wrong_host", f"host {headers.get('host')!r:.80} is not served; see http.allowed_hosts")
        if method not in _SAFE_METHODS and _is_cross_site(headers):
            return refuse(403, "cross_site", "cross-site requests are not allowed")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            return refuse(413, "oversized", self._too_large())
        return None

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes (intake.max_message_bytes)"

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, detail=self._too_large())
            return message

        return bounded


def refuse(status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    refusal = ErrorResponse(error=ErrorDetail(reason=reason, detail=detail))
    return JSONResponse(refusal.model_dump(), status_code=status, headers=headers)


def allowed_hosts(bound_to: str, configured: list[str]) -> frozenset[str] | None:
    """None unless bound to loopback: other addresses require a token, which a rebinding page does not have."""
    if bound_to not in LOOPBACK:
        return None
    return LOOPBACK | {name.lower() for name in configured}


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _address(origin: str) -> str:
    """Host and port of an origin; empty for the opaque origin `null` and for an invalid one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_cross_site(headers: Headers) -> bool:
    """Browsers send Sec-Fetch-Site or Origin with a POST. Other clients send neither and are accepted."""
    if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return True
    origin = headers.get("origin")
    return origin is not None and _address(origin) != headers.get("host", "").lower()
