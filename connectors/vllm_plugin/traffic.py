"""How many requests each generation answered under the alias, and how many ended in an error of the server.

Counts only grow while the server process lives; the state route shows them beside the process's epoch, so that whoever
adds them up over servers and restarts counts nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from starlette.types import Message, Receive, Send

ANSWER_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
"""Routes that answer a user; counting tokens, say, is no traffic."""
STREAM_ERROR = b'data: {"error"'
"""How vLLM 0.32 ends a stream whose generation failed; its HTTP status was sent as 200 before."""


class Traffic:
    """Counts by generation name."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()

    def count(self, name: str, *, failed: bool) -> None:
        self._requests[name] += 1
        self._errors[name] += failed

    def shown(self) -> Mapping[str, Mapping[str, int]]:
        return {name: {"requests": requests, "errors": self._errors[name]} for name, requests in self._requests.items()}


class Exchange:
    """One request and its answer as the server sees it go by; says afterwards what it counts as."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._ended = False
        self._broken = False
        self._client_left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._ended:
            self._client_left = True
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self._client_left = True  # the newer of the two ways in which ASGI servers say it
            raise
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._broken = self._broken or message.get("body", b"").startswith(STREAM_ERROR)
            self._ended = not message.get("more_body", False)

    @property
    def failed(self) -> bool:
        """The server's own fault: status 5xx, or an answer that it did not end although the client was there."""
        refused = self._status is not None and self._status >= 500
        return refused or self._broken or not (self._ended or self._client_left)

    @property
    def counts(self) -> bool:
        """Whether it is traffic: the client's own faults (4xx), and clients that left before any answer, are not."""
        return self.failed or (self._status is not None and self._status < 400)
