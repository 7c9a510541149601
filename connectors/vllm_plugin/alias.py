"""The alias of a vLLM server: the generation that answers new requests, and the requests in flight per generation.

This module does not need vLLM. Everything runs on one event loop: code without an `await` is atomic and needs no lock.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connectors.chat import GENERATION_HEADER
from connectors.vllm_plugin.errors import RETRY_AFTER_S, RequestRefused
from connectors.vllm_plugin.exchanges import Exchanges
from connectors.vllm_plugin.guide import guided
from connectors.vllm_plugin.inside import REFUSED
from connectors.vllm_plugin.refusals import RefusalChecks
from connectors.vllm_plugin.routes import ADMIN_PREFIX, has_token, route_path
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_plugin.system_role import SystemRole
from connectors.vllm_plugin.traffic import ANSWER_PATHS, ObservedRequest, RequestCounts
from connectors.vllm_plugin.trial import SHADOW_PATHS, AnswerRecorder, Shadows, conversation_key
from connectors.vllm_wire import ShadowFigures, Trial

_answering_as: ContextVar[str | None] = ContextVar("answering_as", default=None)


def answering_as(default: str) -> str:
    """The generation name for the answer to the current request; `default` outside the alias."""
    return _answering_as.get() or default


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Target of one request. A later flip does not change it.

    `served`: the model name passed to vLLM; `guided`: whether the guidance is added.
    """

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
        self.traffic = RequestCounts()
        self.exchanges = Exchanges(settings.exchanges)
        self.trial: Trial | None = None
        self.term = 0
        """The latest leadership among the daemons that this server has heard of; 0: none."""
        self.shadowed: dict[str, ShadowFigures] = {}
        self._origins: dict[str, str] = {}
        self._loaded: set[str] = set()
        self._draining: set[str] = set()
        self._in_flight: Counter[str] = Counter()
        self.users = 0
        """Requests under the alias in flight."""

    def resolve(self, model: str, conversation: bytes = b"") -> Route | None:
        """The route of a model name; None if the name does not belong to erratad.

        During a canary, the conversation decides between the live generation and the candidate.

        Raises:
            RequestRefused: 503 under the alias while nothing is live, 404 for a generation that accepts no requests.
        """
        guided = model == self.settings.alias
        name = self._answering(conversation) if guided else model
        if name is None:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "no_live_generation",
                f"no generation is live under {model!r} yet; try again in {RETRY_AFTER_S} s",
            )
        generation = self.settings.generation(name)
        if generation is None:
            return None
        if not self.serves(name) or name in self._draining:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "NotFoundError", f"The model `{name}` does not exist.")
        served = self.settings.base_name if generation == 0 else name
        return Route(name=name, generation=generation, served=served, guided=guided)

    def _answering(self, conversation: bytes) -> str | None:
        trial = self.trial
        if self.live is not None and trial and trial.mode == "canary" and trial.takes(conversation):
            return trial.name
        return self.live

    def try_out(self, trial: Trial | None) -> None:
        """Start a trial, replacing a running one; None ends it. Raises RequestRefused: 404, 409."""
        if trial is not None and not self.loaded(trial.name):
            raise RequestRefused(
                HTTPStatus.NOT_FOUND, "not_loaded", f"adapter {trial.name} is not loaded; load it first"
            )
        if trial is not None and trial.name == self.live:
            raise RequestRefused(
                HTTPStatus.CONFLICT, "adapter_live", f"{trial.name} is live: there is nothing to try out"
            )
        if trial is not None:
            self.keep(trial.name)
        self.trial = trial

    def _end_trial_of(self, name: str) -> None:
        if self.trial is not None and self.trial.name == name:
            self.trial = None

    def hear(self, term: int | None) -> None:
        """Learn of a leadership from any admin request; None: the request belongs to none."""
        self.term = max(self.term, term or 0)

    def obey(self, term: int | None) -> None:
        """Check an order to change something. Raises RequestRefused: 412 if it is of an earlier leadership."""
        if term is not None and term < self.term:
            raise RequestRefused(
                HTTPStatus.PRECONDITION_FAILED,
                "deposed",
                f"another daemon leads: this order is of term {term}, and this server has heard of term {self.term}",
            )

    def serves(self, name: str) -> bool:
        return name in self._loaded or self.settings.generation(name) == 0

    def loaded(self, name: str) -> bool:
        return name in self._loaded

    def origin(self, name: str) -> str | None:
        """The folder that a name was first loaded from. It never changes: vLLM's prefix cache survives an unload."""
        return self._origins.get(name)

    def adapters(self) -> dict[str, int]:
        """Requests in flight, by loaded adapter."""
        return {name: self._in_flight[name] for name in sorted(self._loaded)}

    def enter(self, route: Route) -> None:
        self._in_flight[route.name] += 1
        self.users += route.guided

    def leave(self, route: Route) -> None:
        self._in_flight[route.name] -= 1
        self.users -= route.guided

    def add(self, name: str, path: str) -> None:
        self._origins[name] = path
        self._loaded.add(name)

    def keep(self, name: str) -> None:
        """Cancel a drain."""
        self._draining.discard(name)

    def drain(self, name: str) -> int:
        """Refuse new requests for this adapter. Returns the number of requests in flight."""
        self._end_trial_of(name)
        self._draining.add(name)
        return self._in_flight[name]

    def drop(self, name: str) -> None:
        """Forget a drained adapter. It can no longer be requested or made live."""
        self._loaded.remove(name)
        self.traffic.forget_durations(name)
        self._draining.discard(name)

    def set_live(self, name: str, expected: str | None) -> None:
        """Compare and swap. Raises RequestRefused: 409 if `expected` is given but not live, 404 if not loaded."""
        if expected is not None and expected != self.live:
            raise RequestRefused(
                HTTPStatus.CONFLICT, "alias_conflict", f"{self.live} is live, not {expected}; read the state and decide"
            )
        if not self.serves(name):
            raise RequestRefused(HTTPStatus.NOT_FOUND, "not_loaded", f"adapter {name} is not loaded; load it first")
        self.keep(name)
        self._end_trial_of(name)
        self.live = name


class AliasMiddleware:
    """Resolves the model name of each request, adds the guidance, names the generation in the answer, and counts."""

    def __init__(self, app: ASGIApp, *, table: AliasTable) -> None:
        self._app = app
        self._table = table
        self._shadows = Shadows(app)
        settings = table.settings
        self._system_role = SystemRole(app, model=settings.base_name, given=settings.system_role)
        self._refusals = RefusalChecks(app, model=settings.base_name, counts=table.traffic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = route_path(scope)
        if scope["method"] != "POST" or path.startswith(ADMIN_PREFIX):
            return await self._app(scope, receive, send)
        return await self._answer(path, scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        raw = await _read_body(receive)
        if raw is None:
            return
        body = self._ours(raw)
        sent = None if body is None else await self._guided(path, body, scope)
        trial = self._table.trial
        conversation = b"" if body is None or trial is None else conversation_key(scope["headers"], body)
        try:
            self._check_name(raw, scope)
            route = None if body is None else self._table.resolve(body["model"], conversation)
        except RequestRefused as refusal:
            await refusal.response()(scope, _BufferedReceive(raw, receive), send)
            return
        if body is None or sent is None or route is None:
            await self._app(scope, _BufferedReceive(raw, receive), send)
            return
        # no `await` between `resolve` and `enter`: otherwise an unload could run in between
        if trial is not None and _shadowed(trial, route, path, body, conversation):
            live = AnswerRecorder(send)
            status = await self._forward(route, sent, scope, receive, live.send, from_client=body)
            self._copy(trial, sent, scope, live)
        else:
            status = await self._forward(route, sent, scope, receive, send, from_client=body)
        if status in REFUSED:
            self._refusals.start(scope, path, plain=body, guided=sent, name=route.name)

    async def _guided(self, path: str, body: dict[str, Any], scope: Scope) -> dict[str, Any]:
        """The body with the guidance, if its model is the alias."""
        settings = self._table.settings
        if body["model"] != settings.alias or not settings.guidance:
            return body
        return guided(path, body, settings.guidance, system_role=await self._system_role.exists(scope))

    def _copy(self, trial: Trial, sent: dict[str, Any], scope: Scope, live: AnswerRecorder) -> None:
        """Send a copy of the request to the candidate, if it is still on trial and below its concurrency."""
        figures = self._table.shadowed.setdefault(trial.name, ShadowFigures())
        if self._table.trial != trial or not (200 <= live.status < 300 or live.status >= 500):
            return
        if self._shadows.busy(trial):
            figures.dropped += 1
            return
        generation = self._table.settings.generation(trial.name) or 0
        route = Route(name=trial.name, generation=generation, served=trial.name, guided=True)
        content = _content(sent, route)
        self._table.enter(route)  # a shadow copy counts as in flight: an unload waits for it
        task = self._shadows.start(_with_length(scope, content), content, live=live, figures=figures)
        task.add_done_callback(lambda _: self._table.leave(route))

    def _check_name(self, raw: bytes, scope: Scope) -> None:
        """Where raw names are closed, refuse a body with another model than the alias, or with none.

        vLLM answers a request without a model with the base model.
        """
        settings = self._table.settings
        if settings.raw_names or not raw or has_token(scope, settings.admin_token):
            return
        body = _parsed(raw)
        if not isinstance(body, dict) or body.get("model") != settings.alias:
            raise RequestRefused(
                HTTPStatus.NOT_FOUND,
                "NotFoundError",
                f"set model to {settings.alias!r} in a JSON body: no other model is open to clients of this server",
            )

    def _ours(self, raw: bytes) -> dict[str, Any] | None:
        """The parsed body if its model may belong to erratad, else None.

        A name written with JSON escapes is missed here; vLLM does not know it and answers 404.
        """
        if self._table.settings.alias.encode() not in raw:
            return None
        body = _parsed(raw)
        return body if isinstance(body, dict) and isinstance(body.get("model"), str) else None

    async def _forward(
        self,
        route: Route,
        body: dict[str, Any],
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        from_client: dict[str, Any],
    ) -> int | None:
        """Pass the request on. Returns the status of the answer, None without one."""

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[GENERATION_HEADER] = str(route.generation)
            await send(message)

        raw = _content(body, route)
        recorder = None
        if not has_token(scope, self._table.settings.admin_token):
            recorder = self._table.exchanges.recorder(route_path(scope), route.name, from_client, named)
        scope = _with_length(scope, raw)
        observed = ObservedRequest(_BufferedReceive(raw, receive), named if recorder is None else recorder.send)
        token = _answering_as.set(route.name)
        begun = time.monotonic()
        self._table.enter(route)
        try:
            await self._app(scope, observed.receive, observed.send)
        finally:
            self._table.leave(route)
            _answering_as.reset(token)
            if recorder is not None:
                recorder.close()
            if route.guided and observed.counts and scope["path"].endswith(ANSWER_PATHS):
                duration_s = time.monotonic() - begun
                self._table.traffic.count(
                    route.name, failed=observed.failed, duration_s=duration_s, tokens=observed.tokens
                )
        return observed.status


def _parsed(raw: bytes) -> Any:
    """The value of a JSON body, None of another one."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _with_length(scope: Scope, raw: bytes) -> Scope:
    scope = {**scope, "headers": list(scope["headers"])}
    MutableHeaders(scope=scope)["content-length"] = str(len(raw))
    return scope


def _shadowed(trial: Trial, route: Route, path: str, body: dict[str, Any], conversation: bytes) -> bool:
    plain = path in SHADOW_PATHS and not body.get("stream")
    return trial.mode == "shadow" and route.guided and plain and trial.takes(conversation)


class _BufferedReceive:
    """An ASGI `receive` that returns the body that was read already, then the further messages of the server."""

    def __init__(self, raw: bytes, receive: Receive) -> None:
        self._raw: bytes | None = raw
        self._receive = receive

    async def __call__(self) -> Message:
        if self._raw is None:
            return await self._receive()
        raw, self._raw = self._raw, None
        return {"type": "http.request", "body": raw, "more_body": False}


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None if the client disconnected before it was complete."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


def _content(body: dict[str, Any], route: Route) -> bytes:
    return json.dumps({**body, "model": route.served}).encode()
