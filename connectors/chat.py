"""Client of one OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""vLLM's server closes a connection after 5 s without a request, and httpx keeps it for 5 s too. A request sent at the
moment of closing would be lost, so connections are dropped earlier."""
GENERATION_HEADER = "x-erratad-generation"


class EndpointError(Exception):
    """A request failed. `transient`: a retry may succeed. `status`: the HTTP status, None if there was no response."""

    def __init__(self, message: str, *, transient: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.status = status


class Dialect(Protocol):
    """How the conversations of a model are written, and its answers are read.

    `anchor`: a text to put before an answer, to get the token ids that it has after a prompt.
    """

    @property
    def anchor(self) -> str: ...

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages to send."""
        ...

    def reply(self, text: str) -> tuple[str, str]:
        """Thoughts and answer of a text by the model."""
        ...

    def written(self, text: str) -> str:
        """The text that follows the prompt when the model gives this answer."""
        ...


class _Plain:
    """The dialect that changes nothing."""

    anchor = ""

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [dict(message) for message in messages]

    def reply(self, text: str) -> tuple[str, str]:
        return "", text

    def written(self, text: str) -> str:
        return text


PLAIN: Dialect = _Plain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; `text` is without the thoughts of a reasoning model.

    `model`: the model name in the response. `generation`: None if the server has no alias.
    """

    text: str
    model: str
    generation: int | None
    finish_reason: str
    completion_tokens: int
    thoughts: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut at `max_tokens`."""
        return self.finish_reason == "length"


class ChatEndpoint:
    """Client of the endpoint at a base URL (without /v1). Thread-safe. It never retries: the caller decides that."""

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout_s: float = 120.0, dialect: Dialect = PLAIN
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._dialect = dialect
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=_timeout(timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S),
        )

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Ask for one answer; `timeout_s` overrides the endpoint's timeout for this request.

        Raises:
            EndpointError: when the request fails; the text includes the endpoint's error message, if any.
        """
        sent = self._dialect.messages(messages)
        body = {"model": model, "messages": sent, "max_tokens": max_tokens, "temperature": temperature}
        body |= {} if seed is None else {"seed": seed}
        options = {} if timeout_s is None else {"timeout": _timeout(timeout_s)}
        response = self._send("POST", "/v1/chat/completions", body, **options)
        answer = self._parse(response)
        try:
            choice = answer["choices"][0]
            thoughts, text = self._read(choice["message"])
            return Reply(
                text=text,
                thoughts=thoughts,
                model=answer["model"],
                generation=_generation(response),
                finish_reason=choice.get("finish_reason") or "",
                completion_tokens=(answer.get("usage") or {}).get("completion_tokens", 0),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise self._unexpected(response, exc) from exc

    def close(self) -> None:
        self._client.close()

    def _read(self, message: Mapping[str, Any]) -> tuple[str, str]:
        """Thoughts and answer of a message. A server with a reasoning parser has separated them."""
        content, thoughts = message.get("content") or "", message.get("reasoning") or message.get("reasoning_content")
        return (thoughts, content) if thoughts else self._dialect.reply(content)

    def _send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, json=body, **options)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
            raise EndpointError(f"{self.url} is no HTTP address: {exc}", transient=False) from exc
        except httpx.TimeoutException as exc:
            raise EndpointError(f"{method} {self.url}{path}: no answer in time", transient=True) from exc
        except httpx.TransportError as exc:
            raise EndpointError(f"{method} {self.url}{path}: {exc or type(exc).__name__}", transient=True) from exc
        if not response.is_success:
            raise self._failed(response, f"{method} {self.url}{path}")
        return response

    def _failed(self, response: httpx.Response, what: str) -> EndpointError:
        status = response.status_code
        return EndpointError(
            f"{what}: HTTP {status}: {_reason(response)}",
            transient=status >= 500 or status in {408, 429},
            status=status,
        )

    def _parse(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except json.JSONDecodeError as exc:
            raise self._unexpected(response, exc) from exc

    def _unexpected(self, response: httpx.Response, exc: Exception) -> EndpointError:
        return EndpointError(
            f"{response.request.url} sent an unexpected response ({type(exc).__name__}: {exc}): {response.text:.200}",
            transient=False,
            status=response.status_code,
        )


def _timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


def _generation(response: httpx.Response) -> int | None:
    value = response.headers.get(GENERATION_HEADER, "")
    return int(value) if value.isdecimal() else None


def _reason(response: httpx.Response) -> str:
    """The message of an OpenAI-style error body; otherwise the first 200 characters of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.text:.200}"


UNANSWERABLE = frozenset({400, 413, 422})
"""HTTP statuses of a request that every model would refuse, such as a conversation longer than the context."""
