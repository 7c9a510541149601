"""Client of one vLLM server that runs erratad's plugin (`connectors.vllm_plugin.plugin`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from connectors.adapter_store import StoredAdapter
from connectors.chat import PLAIN, ChatEndpoint, Dialect, EndpointError
from connectors.vllm_wire import (
    ADMIN_HEADER,
    TERM_HEADER,
    Exchange,
    ProbeResult,
    Said,
    Served,
    ServerState,
    ShadowFigures,
    Trial,
    Work,
)

READY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Log-likelihood of a completion: `logprob` is the sum over its `tokens`, in nats."""

    logprob: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Nats per token; 0 for an empty completion."""
        return self.logprob / self.tokens if self.tokens else 0.0


class AliasConflict(EndpointError):  # noqa: N818 - a compare-and-swap that lost, not a fault
    """The live generation is not the one that the caller expected. Nothing was changed."""


class DeposedError(Exception):
    """The server takes its orders from a later leadership. Nothing was changed, and no attempt will ever succeed.

    It is no EndpointError: whoever handles a server that fails must not go on as if it still led.
    """


class VllmServer(ChatEndpoint):
    """Client of one server: answers, scores, adapters and alias. Every call raises EndpointError when it fails.

    `term`: the number of the leadership that the current work belongs to; None: it belongs to none. Calls that change
    adapters, alias or trial raise DeposedError if the server has heard of a later one.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        admin_token: str | None = None,
        timeout_s: float = 120.0,
        dialect: Dialect = PLAIN,
        term: Callable[[], int | None] = lambda: None,
    ) -> None:
        super().__init__(url, api_key=api_key, timeout_s=timeout_s, dialect=dialect)
        if admin_token:
            self._client.headers[ADMIN_HEADER] = admin_token
        self._authorization = {"Authorization": f"Bearer {admin_token or ''}"}
        self._term = term

    def score(self, model: str, messages: Sequence[Mapping[str, Any]], completion: str) -> Score:
        """Log-likelihood of `completion` as the assistant's answer; see `token_logprobs`."""
        each = self.token_logprobs(model, messages, completion)
        return Score(logprob=math.fsum(each), tokens=len(each))

    def token_logprobs(self, model: str, messages: Sequence[Mapping[str, Any]], completion: str) -> list[float]:
        """Log-probability (nats) of each token of `completion` as the assistant's answer, without the end of turn.

        Prompt and completion are tokenised separately, as in generation: no token spans both.
        """
        prompt = self.prompt_ids(model, messages)
        answer = self._answer_ids(model, self._dialect.written(completion))
        if not answer:
            return []
        body = {"model": model, "prompt": prompt + answer, "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        response = self._send("POST", "/v1/completions", body)
        parsed = self._parse(response)
        try:
            at = parsed["choices"][0]["prompt_logprobs"][len(prompt) :]
            return [float(place[str(token)]["logprob"]) for token, place in zip(answer, at, strict=True)]
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise self._unexpected(response, exc) from exc

    def prompt_ids(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of the prompt that the server makes of the messages."""
        sent = self._dialect.messages(messages)
        return self._tokens({"model": model, "messages": sent, "add_generation_prompt": True})

    def answered_ids(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int] | None:
        """Token ids of the prompt that an answer is made from; None if the server does not tell them.

        They differ from `prompt_ids` for gpt-oss.
        """
        body = {"model": model, "messages": self._dialect.messages(messages), "max_tokens": 1, "return_token_ids": True}
        response = self._send("POST", "/v1/chat/completions", body)
        try:
            ids = self._parse(response).get("prompt_token_ids")
            return None if ids is None else [int(token) for token in ids]
        except (AttributeError, TypeError, ValueError) as exc:
            raise self._unexpected(response, exc) from exc

    def text(self, model: str, ids: Sequence[int]) -> str:
        """The text of token ids."""
        response = self._send("POST", "/detokenize", {"model": model, "tokens": list(ids)})
        try:
            return str(self._parse(response)["prompt"])
        except (KeyError, TypeError) as exc:
            raise self._unexpected(response, exc) from exc

    def ends_at(self, model: str, messages: Sequence[Mapping[str, Any]], token: int) -> bool:
        """Whether the answer to the messages ends when the model writes this token."""
        sent = self._dialect.messages(messages)
        body = {"model": model, "messages": sent, "max_tokens": 2, "temperature": 0.0, "allowed_token_ids": [token]}
        response = self._send("POST", "/v1/chat/completions", body)
        try:
            return bool(self._parse(response)["choices"][0]["finish_reason"] == "stop")
        except (KeyError, IndexError, TypeError) as exc:
            raise self._unexpected(response, exc) from exc

    def _answer_ids(self, model: str, text: str) -> list[int]:
        """Ids of an answer after a prompt."""
        anchor = self._dialect.anchor
        start, whole = (self._text_ids(model, one) if one else [] for one in (anchor, anchor + text))
        return whole[len(start) :] if whole[: len(start)] == start else self._text_ids(model, text)

    def _text_ids(self, model: str, text: str) -> list[int]:
        return self._tokens({"model": model, "prompt": text, "add_special_tokens": False})

    def _tokens(self, body: Mapping[str, Any]) -> list[int]:
        response = self._send("POST", "/tokenize", body)
        try:
            return [int(token) for token in self._parse(response)["tokens"]]
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unexpected(response, exc) from exc

    def ready(self) -> bool:
        """Whether the server is healthy and accepts admin calls."""
        return self.not_ready_reason() is None

    def not_ready_reason(self) -> str | None:
        """Why the server is not ready, or None if it is. A server that hangs counts as not ready after 5 s."""
        try:
            self.check_engine()
            self._admin("GET", "/erratad/v1/state", timeout=READY_TIMEOUT_S)
        except EndpointError as exc:
            return str(exc)
        return None

    def check_engine(self) -> None:
        """Raises EndpointError if the engine is dead, or says nothing for 5 s."""
        self._send("GET", "/health", timeout=READY_TIMEOUT_S)

    def state(self, *, timeout_s: float | None = None) -> ServerState:
        """`timeout_s` overrides the endpoint's timeout."""
        options = {} if timeout_s is None else {"timeout": timeout_s}
        response = self._admin("GET", "/erratad/v1/state", **options)
        state = self._parse(response)
        try:
            return ServerState(
                live=state["live"],
                epoch=state["epoch"],
                interface=state.get("interface", 1),
                pulls_from=state.get("pulls_from"),
                adapters=dict(state["adapters"]),
                traffic=_traffic(state),
                trial=None if state["trial"] is None else Trial(**state["trial"]),
                shadowed={name: ShadowFigures(**figures) for name, figures in state["shadowed"].items()},
                work=None if state.get("work") is None else Work(**state["work"]),
                term=state.get("term", 0),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise self._unexpected(response, exc) from exc

    def load(self, name: str, path: Path) -> None:
        """Load an adapter folder under its name. Idempotent.

        The server reads the folder itself, so the path must be valid on the server too.
        """
        self._admin("PUT", _adapter(name), {"path": str(path.absolute())})

    def load_stored(self, name: str, stored: StoredAdapter) -> None:
        """Have the server pull a published adapter and load it under its name. Idempotent.

        While a long download goes on, it fails with a transient EndpointError that names the progress.
        """
        self._admin("PUT", _adapter(name), asdict(stored))

    def probe(self, name: str) -> ProbeResult:
        response = self._admin("POST", f"{_adapter(name)}/probe")
        try:
            return ProbeResult(**self._parse(response))
        except TypeError as exc:
            raise self._unexpected(response, exc) from exc

    def set_live(self, name: str, *, expected: str | None) -> None:
        """Route new requests under the alias to a loaded generation, if `expected` is live now (None: any may be live).

        Raises:
            AliasConflict: another generation is live.
        """
        try:
            self._admin("PUT", "/erratad/v1/alias", {"live": name, "expected": expected})
        except EndpointError as exc:
            if exc.status == HTTPStatus.CONFLICT:
                raise AliasConflict(str(exc), transient=False, status=exc.status) from exc
            raise

    def try_out(self, trial: Trial | None) -> None:
        """Start the trial of a loaded adapter, replacing a running trial. None: end the running trial."""
        if trial is None:
            self._admin("DELETE", "/erratad/v1/trial")
        else:
            self._admin("PUT", "/erratad/v1/trial", asdict(trial))

    def unload(self, name: str) -> bool:
        """Take an adapter out of service. True when it is gone; False while requests are in flight (call again)."""
        return self._admin("DELETE", _adapter(name)).status_code == HTTPStatus.OK

    def exchanges(self, ids: Sequence[str]) -> dict[str, list[Exchange]]:
        """What the server remembers of these completions; at most 100 ids. Nothing, if it keeps no exchanges."""
        try:
            response = self._admin("POST", "/erratad/v1/exchanges", {"ids": list(ids)})
        except EndpointError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                return {}
            raise
        try:
            found = self._parse(response)["exchanges"]
            return {name: [_exchange(one) for one in kept] for name, kept in found.items() if kept}
        except (KeyError, TypeError, AttributeError) as exc:
            raise self._unexpected(response, exc) from exc

    def forget_exchange(self, completion_id: str) -> None:
        """Delete what the server remembers of a completion."""
        try:
            self._admin("DELETE", f"/erratad/v1/exchanges/{quote(completion_id, safe='')}")
        except EndpointError as exc:
            if exc.status != HTTPStatus.NOT_FOUND:
                raise

    def _admin(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        term = self._term()
        headers = self._authorization if term is None else {**self._authorization, TERM_HEADER: str(term)}
        try:
            return self._send(method, path, body, headers=headers, **options)
        except EndpointError as exc:
            if exc.status == HTTPStatus.PRECONDITION_FAILED:
                raise DeposedError(str(exc)) from exc
            raise


def _traffic(state: Mapping[str, Any]) -> dict[str, Served]:
    answered, refused = state["traffic"], state.get("guidance_refusals", {})  # an older plugin has no refusals
    return {
        name: Served(**answered.get(name, {}), guidance_refusals=refused.get(name, 0))
        for name in {**answered, **refused}
    }


def _exchange(kept: Mapping[str, Any]) -> Exchange:
    choices = tuple(Said(**{**choice, "tool_calls": tuple(choice["tool_calls"])}) for choice in kept["choices"])
    return Exchange(**{**kept, "choices": choices, "forced": tuple(kept["forced"])})


def _adapter(name: str) -> str:
    return f"/erratad/v1/adapters/{quote(name, safe='')}"
