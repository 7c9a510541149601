"""The alias in front of a vLLM server: which generation answers new requests, and what is in flight under each.

Nothing here needs vLLM. Everything runs on one event loop, so code without an `await` is atomic and needs no lock.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.chat import GENERATION_HEADER
from connectors.guidance import below, with_guidance
from connectors.vllm_plugin.traffic import ANSWER_PATHS, Exchange, Traffic
from connectors.vllm_plugin.trial import SHADOW_PATHS, Shadows, Taken, conversation_key
from connectors.vllm_wire import ShadowFigures, Trial

RETRY_AFTER_S = 2
ADMIN_PREFIX = "/erratad/"
CLOSED_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/invocations"})
"""Stock routes that would change adapters behind the table's back, or reach a model past `--api-key` (vLLM #58144)."""
CLOSED_PREFIX = "/adapters"

_answering_as: ContextVar[str | None] = ContextVar("answering_as", default=None)


def answering_as(default: str) -> str:
    """The generation name that the current request's answer must carry; `default` outside the alias."""
    return _answering_as.get() or default


class Refusal(Exception):  # noqa: N818 - an answer to the client, not a fault
    """A request that is not carried out; becomes an OpenAI-style error body."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        error = {"message": str(self), "type": self.code, "param": None, "code": self.status.value}
        retry = {"Retry-After": str(RETRY_AFTER_S)} if self.status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return JSONResponse({"error": error}, status_code=self.status.value, headers=retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasSettings:
    """What the server is told by its environment."""

    alias: str
    base_name: str
    guidance: str
    admin_token: str

    def __post_init__(self) -> None:
        if self.base_name == self.alias or self.generation(self.base_name) is not None:
            raise ValueError(f"ERRATAD_BASE_NAME {self.base_name!r} would be shadowed by the alias {self.alias!r}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AliasSettings:
        """Raises ValueError naming the variable that is missing."""
        names = ("ERRATAD_ALIAS", "ERRATAD_BASE_NAME", "ERRATAD_ADMIN_TOKEN")
        missing = [name for name in names if not environ.get(name)]
        if missing:
            raise ValueError(f"set {', '.join(missing)}: the erratad plugin of vLLM cannot start without")
        alias, base_name, token = (environ[name] for name in names)
        return cls(alias=alias, base_name=base_name, guidance=environ.get("ERRATAD_GUIDANCE", ""), admin_token=token)

    def generation(self, name: str) -> int | None:
        """17 for ``aligned-g000017``; None when the name is not one of this alias's generations."""
        match = re.fullmatch(rf"{re.escape(self.alias)}-g([0-9]{{6,9}})", name)
        return int(match[1]) if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where one request goes; it keeps this generation whatever is flipped meanwhile."""

    name: str
    generation: int
    served: str
    guided: bool


class AliasTable:
    """Live generation, loaded adapters and requests in flight of one server process."""

    def __init__(self, settings: AliasSettings) -> None:
        self.settings = settings
        self.epoch = secrets.token_hex(8)
        self.live: str | None = None
        self.traffic = Traffic()
        self.trial: Trial | None = None
        self.shadowed: dict[str, ShadowFigures] = {}
        self._origins: dict[str, str] = {}
        self._loaded: set[str] = set()
        self._draining: set[str] = set()
        self._in_flight: Counter[str] = Counter()

    def resolve(self, model: str, conversation: bytes = b"") -> Route | None:
        """The route of a model name; None for names that are none of erratad's.

        During a canary, the conversation decides whether the alias means the candidate.

        Raises:
            Refusal: 503 under the alias while nothing is live, 404 for a generation that takes no requests.
        """
        guided = model == self.settings.alias
        name = self._meant(conversation) if guided else model
        if name is None:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "no_live_generation",
                f"no generation is live under {model!r} yet; try again in {RETRY_AFTER_S} s",
            )
        generation = self.settings.generation(name)
        if generation is None:
            return None
        if not self.serves(name) or name in self._draining:
            raise Refusal(HTTPStatus.NOT_FOUND, "NotFoundError", f"The model `{name}` does not exist.")
        served = self.settings.base_name if generation == 0 else name
        return Route(name=name, generation=generation, served=served, guided=guided)

    def _meant(self, conversation: bytes) -> str | None:
        trial = self.trial
        if self.live is not None and trial and trial.mode == "canary" and trial.takes(conversation):
            return trial.name
        return self.live

    def try_out(self, trial: Trial | None) -> None:
        """Begin a trial in place of the one under way, or end it (None). Raises Refusal: 404, 409."""
        if trial is not None and not self.loaded(trial.name):
            raise Refusal(HTTPStatus.NOT_FOUND, "not_loaded", f"adapter {trial.name} is not loaded; load it first")
        if trial is not None and trial.name == self.live:
            raise Refusal(HTTPStatus.CONFLICT, "adapter_live", f"{trial.name} is live: there is nothing to try out")
        if trial is not None:
            self.keep(trial.name)
        self.trial = trial

    def _end_trial_of(self, name: str) -> None:
        if self.trial is not None and self.trial.name == name:
            self.trial = None

    def serves(self, name: str) -> bool:
        return name in self._loaded or self.settings.generation(name) == 0

    def loaded(self, name: str) -> bool:
        return name in self._loaded

    def origin(self, name: str) -> str | None:
        """The folder that a name was ever loaded from: vLLM's prefix cache outlives an unload, so it never changes."""
        return self._origins.get(name)

    def adapters(self) -> dict[str, int]:
        """Requests in flight of every loaded adapter."""
        return {name: self._in_flight[name] for name in sorted(self._loaded)}

    def enter(self, route: Route) -> None:
        self._in_flight[route.name] += 1

    def leave(self, route: Route) -> None:
        self._in_flight[route.name] -= 1

    def add(self, name: str, path: str) -> None:
        self._origins[name] = path
        self._loaded.add(name)

    def keep(self, name: str) -> None:
        """Take back a drain."""
        self._draining.discard(name)

    def drain(self, name: str) -> int:
        """Refuse new requests that name this adapter; returns how many are in flight."""
        self._end_trial_of(name)
        self._draining.add(name)
        return self._in_flight[name]

    def drop(self, name: str) -> None:
        """Forget a drained adapter; from here on it can neither be named nor made live."""
        self._loaded.remove(name)
        self._draining.discard(name)

    def set_live(self, name: str, expected: str | None) -> None:
        """Compare and swap. Raises Refusal: 409 when `expected` is given and not what is live, 404 when not loaded."""
        if expected is not None and expected != self.live:
            raise Refusal(
                HTTPStatus.CONFLICT, "alias_conflict", f"{self.live} is live, not {expected}; read the state and decide"
            )
        if not self.serves(name):
            raise Refusal(HTTPStatus.NOT_FOUND, "not_loaded", f"adapter {name} is not loaded; load it first")
        self.keep(name)
        self._end_trial_of(name)
        self.live = name


class AliasMiddleware:
    """Resolves the model name of each request, adds the guidance, names the generation in the answer, counts."""

    def __init__(self, app: ASGIApp, *, table: AliasTable) -> None:
        self._app = app
        self._table = table
        self._shadows = Shadows(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in CLOSED_PATHS or path.startswith(CLOSED_PREFIX):
            refusal = Refusal(
                HTTPStatus.FORBIDDEN, "closed", f"{path} is closed; adapters change at {ADMIN_PREFIX} only"
            )
            return await refusal.response()(scope, receive, send)
        if scope["method"] != "POST" or path.startswith(ADMIN_PREFIX):
            return await self._app(scope, receive, send)
        return await self._answer(path, scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await _read_body(receive)
        if raw is None:
            return
        body, trial = self._ours(raw), self._table.trial
        said = b"" if body is None or trial is None else conversation_key(scope["headers"], body)
        try:
            route = None if body is None else self._table.resolve(body["model"], said)
        except Refusal as refusal:
            await refusal.response()(scope, _Replay(raw, receive), send)
            return
        if body is None or route is None:
            await self._app(scope, _Replay(raw, receive), send)
            return
        # Nothing awaits between `resolve` and `enter`: an unload cannot come between them.
        content = _rewritten(path, body, route, self._table.settings.guidance)
        if trial is not None and _shadowed(trial, route, path, body, said):
            live = Taken(send)
            await self._forward(route, content, scope, receive, live.send)
            self._copy(trial, path, body, scope, live)
        else:
            await self._forward(route, content, scope, receive, send)

    def _copy(self, trial: Trial, path: str, body: dict[str, Any], scope: Scope, live: Taken) -> None:
        """Have the candidate answer the same request unseen, if it is still on trial and has the time."""
        figures = self._table.shadowed.setdefault(trial.name, ShadowFigures())
        if self._table.trial != trial or not (200 <= live.status < 300 or live.status >= 500):
            return
        if self._shadows.busy(trial):
            figures.dropped += 1
            return
        generation = self._table.settings.generation(trial.name) or 0
        route = Route(name=trial.name, generation=generation, served=trial.name, guided=True)
        content = _rewritten(path, body, route, self._table.settings.guidance)
        self._table.enter(route)
        task = self._shadows.start(_with_length(scope, content), content, live=live, figures=figures)
        task.add_done_callback(lambda _: self._table.leave(route))

    def _ours(self, raw: bytes) -> dict[str, Any] | None:
        """The parsed body when its model may be one of ours; a name hidden by JSON escapes is unknown to vLLM: 404."""
        if self._table.settings.alias.encode() not in raw:
            return None
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) and isinstance(body.get("model"), str) else None

    async def _forward(self, route: Route, raw: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[GENERATION_HEADER] = str(route.generation)
            await send(message)

        scope = _with_length(scope, raw)
        exchange = Exchange(_Replay(raw, receive), named)
        token = _answering_as.set(route.name)
        self._table.enter(route)
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._table.leave(route)
            _answering_as.reset(token)
            if route.guided and exchange.counts and scope["path"].endswith(ANSWER_PATHS):
                self._table.traffic.count(route.name, failed=exchange.failed)


def _with_length(scope: Scope, raw: bytes) -> Scope:
    scope = {**scope, "headers": list(scope["headers"])}
    MutableHeaders(scope=scope)["content-length"] = str(len(raw))
    return scope


def _shadowed(trial: Trial, route: Route, path: str, body: dict[str, Any], said: bytes) -> bool:
    plain = path in SHADOW_PATHS and not body.get("stream")
    return trial.mode == "shadow" and route.guided and plain and trial.takes(said)


class _Replay:
    """An ASGI `receive` that gives the body once and then whatever the server says."""

    def __init__(self, raw: bytes, receive: Receive) -> None:
        self._raw: bytes | None = raw
        self._receive = receive

    async def __call__(self) -> Message:
        if self._raw is None:
            return await self._receive()
        raw, self._raw = self._raw, None
        return {"type": "http.request", "body": raw, "more_body": False}


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client left before it was complete."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _rewritten(path: str, body: dict[str, Any], route: Route, guidance: str) -> bytes:
    body = {**body, "model": route.served}
    if route.guided and guidance:
        _guide(path, body, guidance)
    return json.dumps(body).encode()


def _guide(path: str, body: dict[str, Any], guidance: str) -> None:
    """Put the guidance where the protocol of `path` has its system message; plain completions have none."""
    if path.startswith("/v1/responses"):
        body["instructions"] = below(body.get("instructions"), guidance)
    elif path.startswith("/v1/messages"):
        body["system"] = below(body.get("system"), guidance)
    elif path == "/v1/chat/completions/batch" and isinstance(body.get("messages"), list):
        body["messages"] = [_guided(messages, guidance) for messages in body["messages"]]
    elif "messages" in body:
        body["messages"] = _guided(body["messages"], guidance)


def _guided(messages: Any, guidance: str) -> Any:
    """What is no conversation stays as it is, for vLLM to refuse."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return messages
    if messages and not isinstance(messages[0].get("content"), str | list | None):
        return messages
    return with_guidance(messages, guidance)
