"""Client of one OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""vLLM's server closes a connection that was idle for 5 s. httpx keeps one as long: a request that crosses with the
closing is lost."""
GENERATION_HEADER = "x-erratad-generation"


class EndpointError(Exception):
    """A request failed. `transient`: the same one may succeed later; `status`: of HTTP, None where none came."""

    def __init__(self, message: str, *, transient: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer. `model` is who answered, as the endpoint says; `generation` is said by servers with the alias."""

    text: str
    model: str
    generation: int | None
    finish_reason: str
    completion_tokens: int

    @property
    def truncated(self) -> bool:
        """Whether the answer ran into `max_tokens`."""
        return self.finish_reason == "length"


class ChatEndpoint:
    """An endpoint at a base URL (without /v1); threads may share it. It never retries: callers know what may be."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 120.0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=_timeout(timeout_s),
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE_S),
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
        """Ask for one answer; `timeout_s` takes the place of the endpoint's own for this request.

        Raises:
            EndpointError: with the endpoint's own words where it gave some.
        """
        body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "temperature": temperature}
        body |= {} if seed is None else {"seed": seed}
        options = {} if timeout_s is None else {"timeout": _timeout(timeout_s)}
        response = self._send("POST", "/v1/chat/completions", body, **options)
        answer = self._parse(response)
        try:
            choice = answer["choices"][0]
            return Reply(
                text=choice["message"].get("content") or "",
                model=answer["model"],
                generation=_generation(response),
                finish_reason=choice.get("finish_reason") or "",
                completion_tokens=(answer.get("usage") or {}).get("completion_tokens", 0),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise self._unexpected(response, exc) from exc

    def close(self) -> None:
        self._client.close()

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
            f"{response.request.url} answered something else than expected "
            f"({type(exc).__name__}: {exc}): {response.text:.200}",
            transient=False,
            status=response.status_code,
        )


def _timeout(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))


def _generation(response: httpx.Response) -> int | None:
    value = response.headers.get(GENERATION_HEADER, "")
    return int(value) if value.isdecimal() else None


def _reason(response: httpx.Response) -> str:
    """The message of an OpenAI-style error body, else the beginning of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.text:.200}"


UNANSWERABLE = frozenset({400, 413, 422})
"""HTTP statuses of a request that no arm can answer, such as a conversation longer than the model's context."""
