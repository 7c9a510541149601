"""Counts the requests that each generation answered under the alias, and those that failed or were wrongly refused.

The time of each answer goes to the server's own `/metrics`: vLLM does not tell there which adapter answered.

Counts only grow while the server process lives. The state route returns them with the epoch of the process, so the
daemon can add them up over servers and restarts without counting twice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Histogram
from starlette.types import Message, Receive, Send

ANSWER_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
"""Routes that generate answers. Other routes, such as counting tokens, are not counted."""
STREAM_ERROR = b'data: {"error"'
"""vLLM 0.32 sends this in a stream when generating fails; status 200 was sent before."""


USAGE = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
"""The number of an answer's tokens, in its last part. Quotes within a text are escaped, so no text looks like it."""
BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class RequestCounts:
    """Requests, errors and requests refused because of the guidance, by generation name.

    `registry` has the durations of answers, for Prometheus.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._durations = Histogram(
            "erratad_request_duration_seconds",
            "Time of a whole answer under the alias, by the generation that gave it; failed requests do not count.",
            ["generation"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._requests: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self.answered_s = 0.0
        """The time that all answers took together, and their tokens."""
        self.answered_tokens = 0

    def count(self, name: str, *, failed: bool, duration_s: float, tokens: int) -> None:
        self._requests[name] += 1
        self._errors[name] += failed
        if not failed:
            self._durations.labels(generation=name).observe(duration_s)
            self.answered_s += duration_s
            self.answered_tokens += tokens

    def forget_durations(self, name: str) -> None:
        """Of a generation that was unloaded: the number of series stays small, however many generations come."""
        self._durations.remove(name)

    def refuse(self, name: str) -> None:
        self._refused[name] += 1

    def refusals(self) -> Mapping[str, int]:
        """The requests that would have been accepted without the guidance; they are no requests of `shown`."""
        return dict(self._refused)

    def shown(self) -> Mapping[str, Mapping[str, int]]:
        return {name: {"requests": requests, "errors": self._errors[name]} for name, requests in self._requests.items()}


class ObservedRequest:
    """Observes the ASGI messages of one request, to classify it when it ends."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.status: int | None = None
        """Status of the answer; None before it."""
        self.tokens = 0
        """Of the answer, as the server counts them; of a stream without such a count, its parts."""
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
            self._client_left = True  # newer ASGI servers signal a disconnect so, older ones by "http.disconnect"
            raise
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self._broken = self._broken or body.startswith(STREAM_ERROR)
            usage = USAGE.search(body)
            self.tokens = self.tokens + 1 if usage is None else int(usage[1])
            self._ended = not message.get("more_body", False)

    @property
    def failed(self) -> bool:
        """Whether the server failed: status 5xx, or an incomplete answer though the client was still connected."""
        refused = self.status is not None and self.status >= 500
        return refused or self._broken or not (self._ended or self._client_left)

    @property
    def counts(self) -> bool:
        """Whether the request counts as traffic. 4xx and clients that left before any answer do not count."""
        return self.failed or (self.status is not None and self.status < 400)
