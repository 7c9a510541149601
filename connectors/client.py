"""Client of a daemon's feedback API, for backends: `Feedback`, and `AsyncFeedback` for asyncio.

Sending is idempotent: a message without an id gets one from its content (short form) or before its first attempt (full
form), so an attempt that is repeated is stored once. What may pass is tried again: no connection, HTTP 429 for too many
requests, 502, 503, 504.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

TIMEOUT_S = 30.0
MAX_ATTEMPTS = 6
FIRST_WAIT_S, LIMIT_WAIT_S = 0.5, 30.0
PASSING = frozenset({429, 502, 503, 504})
ENDED = frozenset({"resolved", "not-reproduced", "buried", "erased", "kept", "given_up"})
"""States that change no more by themselves, or only if the mistake comes back."""


class FeedbackError(Exception):
    """The daemon refused a request, or did not answer. `status` is None without an answer.

    `reason` is for programs (such as 'no_record', 'quota', 'schema_violation'); the text says what to do.
    """

    def __init__(self, detail: str, *, status: int | None = None, reason: str = "no_answer") -> None:
        super().__init__(f"HTTP {status}, {reason}: {detail}" if status else detail)
        self.status = status
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A stored message. `outcome`: 'stored', 'waiting' (for its completion), 'kept', 'duplicate', 'redelivered', ..."""

    id: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What became of a message; `said` is the state as a sentence."""

    id: str
    state: str
    said: str
    fixed_in_generation: int | None

    @property
    def ended(self) -> bool:
        return self.fixed_in_generation is not None or self.state in ENDED


def message_of(
    completion_id: str,
    *,
    rating: Literal["up", "down"] | None = None,
    comment: str | None = None,
    edit: str | None = None,
    follow_up: str | None = None,
    reporter: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The message in the short form. `more`: further fields, such as tenant, category, id or metadata."""
    named = {"rating": rating, "comment": comment, "edit": edit, "follow_up": follow_up, "reporter": reporter}
    said = {name: value for name, value in {**named, **more}.items() if value is not None}
    return {"completion_id": completion_id, **said}


class _Shared:
    """What both clients ask, and how they read the answers."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url
        self.options: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "timeout": TIMEOUT_S,
        }

    @staticmethod
    def with_id(message: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": str(uuid.uuid4()), **message} if "messages" in message else dict(message)

    @staticmethod
    def path(message_id: str) -> str:
        return f"/v1/feedback/{quote(message_id)}"

    def again_after_s(self, answer: httpx.Response | httpx.HTTPError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None: this answer is final."""
        if attempt >= MAX_ATTEMPTS:
            return None
        wait_s = min(FIRST_WAIT_S * 2.0 ** (attempt - 1), LIMIT_WAIT_S) * random.uniform(0.5, 1.0)  # noqa: S311
        if isinstance(answer, httpx.HTTPError):
            return wait_s if isinstance(answer, httpx.TransportError) else None
        if answer.status_code not in PASSING or _error(answer)[0] == "quota":
            return None
        asked = answer.headers.get("Retry-After", "")
        return float(asked) if asked.isdigit() and float(asked) <= LIMIT_WAIT_S else wait_s

    def read(self, answer: httpx.Response | httpx.HTTPError) -> dict[str, Any]:
        """Raises FeedbackError."""
        if isinstance(answer, httpx.HTTPError):
            raise FeedbackError(f"{self.url} does not answer: {answer or type(answer).__name__}") from answer
        if not answer.is_success:
            reason, detail = _error(answer)
            raise FeedbackError(detail, status=answer.status_code, reason=reason)
        try:
            return dict(answer.json())
        except (ValueError, TypeError) as exc:
            raise FeedbackError(f"{self.url} does not answer as an erratad", status=answer.status_code) from exc


def _error(answer: httpx.Response) -> tuple[str, str]:
    try:
        error = answer.json()["error"]
        return str(error["reason"]), str(error["detail"])
    except (ValueError, KeyError, TypeError):
        return "refused", answer.text[:200] or HTTPStatus(answer.status_code).phrase


def _state(values: Mapping[str, Any]) -> State:
    return State(**{field.name: values[field.name] for field in fields(State)})


def _late(state: State, timeout_s: float) -> TimeoutError:
    return TimeoutError(f"{state.id} is {state.state} after {timeout_s:g} s: {state.said}")


class Feedback:
    """A client of one daemon. `token`: of a role that may report; `transport`: for tests."""

    def __init__(self, url: str, *, token: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._shared = _Shared(url, token)
        self._client = httpx.Client(transport=transport, **self._shared.options)

    def submit(self, completion_id: str, **said: Any) -> Accepted:
        """Say what a user thinks of a completion; see `message_of` for the fields. Raises FeedbackError."""
        return self.send(message_of(completion_id, **said))

    def send(self, message: Mapping[str, Any]) -> Accepted:
        """Send a message in the short or the full form. Raises FeedbackError."""
        answer = self._ask("POST", "/v1/feedback", self._shared.with_id(message))
        return Accepted(id=answer["id"], outcome=answer["outcome"])

    def state(self, message_id: str) -> State:
        """Raises FeedbackError."""
        return _state(self._ask("GET", self._shared.path(message_id)))

    def wait(self, message_id: str, *, timeout_s: float, interval_s: float = 5.0) -> State:
        """Ask until the state is final (fixed, or given up with a reason). Raises FeedbackError, TimeoutError."""
        until = time.monotonic() + timeout_s
        while not (found := self.state(message_id)).ended:
            if time.monotonic() + interval_s > until:
                raise _late(found, timeout_s)
            time.sleep(interval_s)
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            answer: httpx.Response | httpx.HTTPError
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.HTTPError as exc:
                answer = exc
            if (wait_s := self._shared.again_after_s(answer, attempt)) is None:
                break
            time.sleep(wait_s)
        return self._shared.read(answer)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncFeedback:
    """`Feedback` for asyncio."""

    def __init__(
        self, url: str, *, token: str | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._shared = _Shared(url, token)
        self._client = httpx.AsyncClient(transport=transport, **self._shared.options)

    async def submit(self, completion_id: str, **said: Any) -> Accepted:
        return await self.send(message_of(completion_id, **said))

    async def send(self, message: Mapping[str, Any]) -> Accepted:
        answer = await self._ask("POST", "/v1/feedback", self._shared.with_id(message))
        return Accepted(id=answer["id"], outcome=answer["outcome"])

    async def state(self, message_id: str) -> State:
        return _state(await self._ask("GET", self._shared.path(message_id)))

    async def wait(self, message_id: str, *, timeout_s: float, interval_s: float = 5.0) -> State:
        until = time.monotonic() + timeout_s
        while not (found := await self.state(message_id)).ended:
            if time.monotonic() + interval_s > until:
                raise _late(found, timeout_s)
            await asyncio.sleep(interval_s)
        return found

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            answer: httpx.Response | httpx.HTTPError
            try:
                answer = await self._client.request(method, path, json=body)
            except httpx.HTTPError as exc:
                answer = exc
            if (wait_s := self._shared.again_after_s(answer, attempt)) is None:
                break
            await asyncio.sleep(wait_s)
        return self._shared.read(answer)

    async def close(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()
