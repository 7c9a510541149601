"""A fake vLLM server: real HTTP, the very alias and admin routes that run inside vLLM, an engine made of a dictionary.

Its tokens are bytes. The public attributes (`answer`, `logprob`, `unusable`, `probes`, `facts_dir`, `stops_at_end`,
`closed`, `refuses`, `rendered`, `adds_space`, `token_delay_s`, `dies_during`, `system_role`, `max_chars`) may be
changed while it runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import generate_latest

from connectors.vllm_plugin.admin import Admin, guard, install
from connectors.vllm_plugin.alias import AliasTable, answering_as
from connectors.vllm_plugin.cache import CacheSettings
from connectors.vllm_plugin.errors import RequestRefused
from connectors.vllm_plugin.exchanges import ExchangeSettings
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_wire import ProbeResult
from tests.fixtures.ports import free_port

GUIDANCE = "Answer well."
RECORDED = (Path(__file__).parent / "vllm_metrics.txt").read_text().splitlines()
"""`/metrics` of vLLM 0.32, without the series that vLLM did not make itself and without the `_created` ones."""
COUNTER = re.compile(r"^(vllm:\w+_(?:total|bucket|sum|count)(?:\{.*\})? )(\S+)$")
ADMIN_TOKEN = "test-admin-token"
EXCHANGES = ExchangeSettings(ttl_s=5.0, max_bytes=64_000)
"""Of the fake server and of the real one of the contract's tests."""
Answer = Callable[[str, list[dict[str, Any]]], str]
"""(served model name, messages) -> answer."""


def echo(model: str, messages: list[dict[str, Any]]) -> str:
    return f"{model} heard {messages[-1]['content']}"


def flat(_model: str, _token: int) -> float:
    """A log-probability per token: -0.5 nats whatever the model."""
    return -0.5


class FakeEngine:
    """Holds adapters as name -> folder."""

    def __init__(self, fake: FakeVllm) -> None:
        self._fake = fake
        self.adapters: dict[str, str] = {}

    async def load(self, name: str, path: str) -> None:
        await self._fake.during("load")
        reason = self._fake.unusable.get(name)
        if reason is None and not (Path(path) / "adapter_config.json").is_file():
            reason = "adapter_config.json is missing"
        if reason is not None:
            raise RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, "adapter_unusable", f"cannot load {path}: {reason}")
        self.adapters[name] = path

    async def unload(self, name: str) -> None:
        await self._fake.during("unload")
        del self.adapters[name]

    async def probe(self, name: str | None) -> ProbeResult:
        await self._fake.during("probe")
        good = ProbeResult(ok=True, finite=True, differs_from_base=name is not None, text="probe")
        return self._fake.probes.get(name or "", good)

    def busy(self, _name: str) -> bool:
        return False

    def tokens(self) -> int | None:
        return self._fake.tokens


class FakeVllm:
    """A server on a port (0: a free one) of its host; `start` after `stop`: same address, new epoch, empty engine."""

    def __init__(
        self,
        *,
        alias: str = "aligned",
        base_name: str = "base",
        guidance: str = GUIDANCE,
        admin_token: str = ADMIN_TOKEN,
        open_routes: tuple[str, ...] = (),
        raw_names: bool = True,
        answer: Answer = echo,
        host: str = "127.0.0.1",
        port: int = 0,
        exchanges: ExchangeSettings | None = EXCHANGES,
        cache: CacheSettings | None = None,
    ) -> None:
        self.settings = AliasSettings(
            alias=alias,
            base_name=base_name,
            guidance=guidance,
            admin_token=admin_token,
            open_routes=open_routes,
            raw_names=raw_names,
            exchanges=exchanges,
            cache=cache,
        )
        self.answer = answer
        self.logprob: Callable[[str, int], float] = flat
        self.unusable: dict[str, str] = {}
        """Adapter name -> reason for refusing to load it."""
        self.probes: dict[str, ProbeResult] = {}
        self.facts_dir: Path | None = None
        """Where a daemon keeps the facts of the chat template: its probes get the ids that stand there."""
        self.tokens: int | None = None
        """What the server says that it has computed."""
        self.stops_at_end = True
        self.closed: set[str] = set()
        """Paths that answer 404."""
        self.refuses = ""
        """The reason why conversations are refused."""
        self.adds_space = False
        """Whether a text begins with a space that the caller did not write, as with SentencePiece."""
        self.rendered: list[int] | None = None
        """Ids of every prompt of chat completions; None: the server does not tell them."""
        self.token_delay_s = 0.0
        self.dies_during: str | None = None
        """A call of the engine (load, probe, unload) in which the server is killed, once."""
        self.system_role: Literal["shown", "refused", "left out"] = "shown"
        """What the chat template does with a system message at the start."""
        self.max_chars: int | None = None
        """Longest prompt that is answered; `/tokenize` takes any."""
        self.requests: list[dict[str, Any]] = []
        """Bodies of the chat requests as they reached the model."""
        self.headers: list[Mapping[str, str]] = []
        """Their headers."""
        self.engine = FakeEngine(self)
        self._socket = socket.create_server((host, port or free_port()))
        self._address = self._socket.getsockname()
        self._scrapes = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        if self._socket.fileno() == -1:
            self._socket = socket.create_server(self._address)
        config = uvicorn.Config(self._app(), log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < deadline, "the fake server did not start"
            time.sleep(0.005)

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=10)
        self._socket.close()

    def forget(self) -> None:
        """Let go of the requests so far."""
        self.requests.clear()
        self.headers.clear()

    async def during(self, call: str) -> None:
        if self.dies_during == call:
            self.dies_during = None
            self.kill()
            await asyncio.sleep(60)  # cut off by the kill

    def kill(self) -> None:
        """End as under SIGKILL: requests in flight are cut off. May be called by a request's handler."""
        assert self._server is not None
        self._server.should_exit = self._server.force_exit = True
        if threading.current_thread() is not self._thread:
            self.stop()

    def _app(self) -> FastAPI:
        self.engine = FakeEngine(self)
        table = AliasTable(self.settings)
        app = FastAPI(openapi_url=None)
        app.middleware("http")(self._close)
        install(app, table)
        app.state.erratad = Admin(table, self.engine)
        app.get("/health")(_health)
        app.get("/metrics")(self._metrics)
        app.get("/v1/models")(self._models)
        app.post("/tokenize")(self._tokenize)
        app.post("/detokenize")(self._detokenize)
        app.post("/v1/completions")(self._complete)
        app.post("/v1/chat/completions")(self._chat)
        guard(app, table)
        return app

    async def _metrics(self, request: Request) -> Response:
        """Metrics of a real server after six requests; counters grow by as much with each scrape. And the plugin's."""
        self._scrapes += 1
        grown = (
            re.sub(COUNTER, lambda found: f"{found[1]}{float(found[2]) * self._scrapes}", line) for line in RECORDED
        )
        durations = generate_latest(request.app.state.erratad.table.traffic.registry).decode()
        return Response("\n".join(grown) + "\n" + durations, media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> JSONResponse:
        live = request.app.state.erratad.table.live
        names = [self.settings.base_name, *self.engine.adapters, *([self.settings.alias] if live else [])]
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    async def _tokenize(self, request: Request) -> JSONResponse:
        body = await request.json()
        if self.refuses:
            return RequestRefused(HTTPStatus.BAD_REQUEST, "BadRequestError", self.refuses).response()
        text = body["prompt"] if "prompt" in body else self._template(body["messages"])
        if (refused := self._known(body) or _refusal(text)) is not None:
            return refused
        space = " " if self.adds_space and "prompt" in body else ""
        tokens = self._known_ids(body) or list(f"{space}{text or ''}".encode())
        longest = 2**20 if self.max_chars is None else self.max_chars + 1
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": longest})

    async def _detokenize(self, request: Request) -> JSONResponse:
        return JSONResponse({"prompt": bytes((await request.json())["tokens"]).decode(errors="replace")})

    async def _close(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return Response(status_code=404) if request.url.path in self.closed else await call_next(request)

    def _known_ids(self, body: dict[str, Any]) -> list[int] | None:
        for path in [] if self.facts_dir is None else self.facts_dir.glob("*.json"):
            for probe in json.loads(path.read_text())["probes"]:
                if probe["messages"] == body.get("messages"):
                    return [int(token) for token in probe["ids"]]
        return None

    async def _complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        tokens = body["prompt"] if isinstance(body["prompt"], list) else list(body["prompt"].encode())
        scored = [{str(token): {"logprob": self.logprob(body["model"], token)}} for token in tokens[1:]]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": [None, *scored]}
        answer = {"object": "text_completion", "model": answering_as(body["model"]), "choices": [choice]}
        return self._known(body) or JSONResponse(answer)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if (refused := self._known(body) or self._unfit(body)) is not None:
            return refused
        if "allowed_token_ids" in body or "return_token_ids" in body:
            choice = {"message": {"content": ""}, "finish_reason": "stop" if self.stops_at_end else "length"}
            return JSONResponse({"model": body["model"], "choices": [choice], "prompt_token_ids": self.rendered})
        self.requests.append(body)
        self.headers.append(request.headers)
        completion_id = f"chatcmpl-{request.headers.get('x-request-id') or uuid.uuid4().hex}"
        words = self.answer(body["model"], body["messages"]).split(" ")[: body.get("max_tokens") or None]
        model = answering_as(body["model"])
        if body.get("stream"):
            return StreamingResponse(self._chunks(completion_id, model, words), media_type="text/event-stream")
        await asyncio.sleep(self.token_delay_s * len(words))
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": " ".join(words)},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 1, "completion_tokens": len(words)}
        answer = {"object": "chat.completion", "id": completion_id, "model": model, "choices": [choice]}
        return JSONResponse({**answer, "usage": usage})

    async def _chunks(self, completion_id: str, model: str, words: list[str]) -> AsyncIterator[str]:
        chunk = {"object": "chat.completion.chunk", "id": completion_id, "model": model}
        for number, word in enumerate(words, 1):
            await asyncio.sleep(self.token_delay_s)
            text, reason = (f"{word} ", None) if number < len(words) else (word, "stop")
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
            yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
        yield "data: [DONE]\n\n"

    def _template(self, messages: list[dict[str, Any]]) -> str | None:
        """The prompt, or None if the template refuses the messages."""
        if messages[0]["role"] == "system" and self.system_role != "shown":
            if self.system_role == "refused":
                return None
            messages = messages[1:]
        return "".join(f"<{message['role']}>{message['content']}" for message in messages) + "<assistant>"

    def _unfit(self, body: dict[str, Any]) -> JSONResponse | None:
        prompt = self._template(body["messages"])
        too_long = prompt is not None and self.max_chars is not None and len(prompt) > self.max_chars
        return _refusal(None if too_long else prompt)

    def _known(self, body: dict[str, Any]) -> JSONResponse | None:
        model = body["model"]
        if model == self.settings.base_name or model in self.engine.adapters:
            return None
        return RequestRefused(HTTPStatus.NOT_FOUND, "NotFoundError", f"The model `{model}` does not exist.").response()


async def _health() -> Response:
    return Response()


def _refusal(prompt: str | None) -> JSONResponse | None:
    if prompt is not None:
        return None
    return RequestRefused(HTTPStatus.BAD_REQUEST, "BadRequestError", "the prompt cannot be made").response()
