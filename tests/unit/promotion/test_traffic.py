"""Traffic and errors counted in a server, and their way to store and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from connectors.vllm_plugin.alias import AliasMiddleware, AliasTable
from connectors.vllm_plugin.settings import AliasSettings
from connectors.vllm_wire import Served
from daemon.config import Config
from daemon.config.serving import ServingConfig
from daemon.operations.gauges import GaugesStage
from daemon.operations.status import status
from daemon.promotion.traffic import TrafficStage
from daemon.store.traffic import TrafficTally
from tests.fixtures.config import flagged, trusting
from tests.fixtures.life import life
from tests.fixtures.serving import Bench
from tests.fixtures.stores import add, statements

FIRST = "aligned-g000001"
ASK = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"


class Call:
    """One request through the middleware to an app that sends `messages` and then raises `raises`, if given."""

    def __init__(self, *messages: dict[str, Any], raises: Exception | None = None, leaves: bool = False) -> None:
        self.table = AliasTable(AliasSettings(alias="aligned", base_name="base", guidance="", admin_token="t"))
        self.table.set_live("aligned-g000000", None)
        self._messages, self._raises, self._leaves = messages, raises, leaves
        self._body: bytes | None = None

    def make(self, path: str = CHAT, model: str = "aligned") -> dict[str, Any]:
        self._body = json.dumps({"model": model, "messages": ASK}).encode()
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        middleware = AliasMiddleware(self._app, table=self.table)
        with nullcontext() if self._raises is None else pytest.raises(RuntimeError, match=str(self._raises)):
            asyncio.run(middleware(scope, self._receive, self._send))
        return dict(self.table.traffic.shown())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if self._leaves:
            assert (await receive())["type"] == "http.disconnect"
        for message in self._messages:
            await send(message)
        if self._raises is not None:
            raise self._raises

    async def _receive(self) -> dict[str, Any]:
        if self._body is None:
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Any) -> None:
        pass


def start(status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": []}


def body(text: bytes = b"{}", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": more}


GOOD, BAD = {"requests": 1, "errors": 0}, {"requests": 1, "errors": 1}


@pytest.mark.parametrize(
    ("call", "counted"),
    [
        (Call(start(), body()), GOOD),
        (Call(start(), body(more=True), body()), GOOD),
        (Call(start(500), body()), BAD),
        (Call(start(), body(b'data: {"error": {"message": "engine died"}}\n\n', more=True), body()), BAD),
        (Call(start(), body(more=True), raises=RuntimeError("engine died")), BAD),
        (Call(raises=RuntimeError("engine died")), BAD),
        (Call(start(), body(more=True), leaves=True), GOOD),
        (Call(start(400), body()), None),
        (Call(leaves=True), None),
    ],
    ids=["answer", "stream", "5xx", "error in a stream", "broken off", "no answer", "client left", "4xx", "left early"],
)
def test_what_an_exchange_counts_as(call: Call, counted: dict[str, int] | None) -> None:
    assert call.make() == ({} if counted is None else {"aligned-g000000": counted})


@pytest.mark.parametrize(("path", "model"), [("/tokenize", "aligned"), (CHAT, "aligned-g000000"), (CHAT, "base")])
def test_only_answers_under_the_alias_are_traffic(path: str, model: str) -> None:
    assert Call(start(), body()).make(path, model) == {}


def test_the_state_of_a_server_shows_what_each_generation_answered(bench: Bench) -> None:
    bench.step()
    bench.clients[0].chat("aligned", ASK, max_tokens=1)
    bench.promoted()
    for _ in range(2):
        bench.clients[0].chat("aligned", ASK, max_tokens=1)
    assert bench.clients[0].state().traffic == {
        "aligned-g000000": Served(requests=1, errors=0),
        FIRST: Served(requests=2, errors=0),
    }
    assert bench.clients[1].state().traffic == {}


def test_the_stage_adds_up_servers_and_restarts(bench: Bench) -> None:
    stage = TrafficStage(store=bench.store, fleet=bench.fleet)
    bench.step()
    for client in bench.clients:
        client.chat("aligned", ASK, max_tokens=1)
    stage.step(life())
    bench.fakes[0].stop()
    step = stage.step(life())
    assert step.sentence == "counted the traffic of 2 of 3 servers"
    bench.fakes[0].start()
    bench.step()
    bench.clients[0].chat("aligned", ASK, max_tokens=1)
    stage.step(life())
    TrafficStage(store=bench.store, fleet=bench.fleet).step(life())
    assert bench.store.traffic.tally(0) == TrafficTally(requests=4, errors=0, flagged=0)


def test_counts_that_stay_the_same_are_stored_again_only_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = TrafficStage(store=bench.store, fleet=bench.fleet)
    bench.step()
    stage.step(life())
    with statements(bench.store) as sent:
        stage.step(life())
    assert sent == []
    bench.clients[0].chat("aligned", ASK, max_tokens=1)
    stage.step(life())
    assert bench.store.traffic.tally(0).requests == 1
    monkeypatch.setattr("daemon.promotion.traffic.REPEAT_S", 0.0)
    with statements(bench.store) as sent:
        stage.step(life())
    assert sent != []


def test_requests_refused_because_of_the_guidance_reach_the_metric_and_the_status(
    bench: Bench, make_config: Callable[..., Config]
) -> None:
    def metric() -> float:
        return REGISTRY.get_sample_value("erratad_guidance_refusals_total") or 0.0

    stage, before = TrafficStage(store=bench.store, fleet=bench.fleet), metric()
    bench.step()
    assert "guidance" not in " ".join(status(bench.store, make_config()).summary)
    bench.fakes[0].max_chars = len("<user>hello<assistant>")
    assert bench.clients[0].chat("base", ASK, max_tokens=1).text
    with pytest.raises(EndpointError, match="400"):
        bench.clients[0].chat("aligned", ASK, max_tokens=1)
    deadline = time.monotonic() + 10
    while not (counted := bench.clients[0].state().traffic):
        assert time.monotonic() < deadline
    assert counted == {"aligned-g000000": Served(guidance_refusals=1)}
    for _ in range(2):
        stage.step(life())
    assert metric() == before + 1
    told = "Refused in the last day only because of the guidance: 1 request under the alias."
    assert told in status(bench.store, make_config()).summary
    assert bench.store.traffic.tally(0) == TrafficTally(requests=0, errors=0, flagged=0)


def test_the_state_of_a_server_with_an_older_plugin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    older: dict[str, Any] = {"live": None, "epoch": "e", "adapters": {}, "trial": None, "shadowed": {}}
    older["traffic"] = {"aligned-g000000": {"requests": 3, "errors": 1}}
    with closing(VllmServer("http://127.0.0.1:1")) as server:
        answer = httpx.Response(200, json=older, request=httpx.Request("GET", "http://127.0.0.1:1"))
        monkeypatch.setattr(server, "_send", lambda *_args, **_options: answer)
        assert server.state().traffic == {"aligned-g000000": Served(requests=3, errors=1)}


def test_the_gauges_show_each_role_and_nothing_where_no_generation_has_it(bench: Bench) -> None:
    bench.promoted()
    bench.clients[0].chat("aligned", ASK, max_tokens=1)
    TrafficStage(store=bench.store, fleet=bench.fleet).step(life())
    add(bench.store, flagged(model=FIRST))
    gauges = GaugesStage(store=bench.store, policy=trusting(), serving=ServingConfig(), data_dir=Path(), stages=[])
    gauges.step(life())
    assert _shown("lifetime_requests", "live") == 1
    assert _shown("flagged_ratio", "live") == 1
    assert _shown("lifetime_requests", "previous") == _shown("lifetime_requests", "base") == 0
    assert _shown("lifetime_requests", "candidate") is None
    bench.ask_rollback()
    bench.step()
    gauges.step(life())
    assert _shown("lifetime_requests", "previous") is None


def test_the_counters_grow_with_the_generation_that_has_the_role(bench: Bench) -> None:
    """Whatever it answered in another role before."""
    gauges = GaugesStage(store=bench.store, policy=trusting(), serving=ServingConfig(), data_dir=Path(), stages=[])
    traffic = TrafficStage(store=bench.store, fleet=bench.fleet)

    def ask(times: int) -> None:
        for _ in range(times):
            bench.clients[0].chat("aligned", ASK, max_tokens=1)
        traffic.step(life())
        gauges.step(life())

    def counted() -> dict[str, float]:
        return {role: _shown("requests_total", role) or 0 for role in ("live", "previous", "base")}

    bench.promoted()
    ask(3)  # what a daemon finds at its start is no increase
    before = counted()
    ask(2)
    bench.promoted()
    gauges.step(life())
    ask(5)
    assert {role: count - before[role] for role, count in counted().items()} == {"live": 7, "previous": 0, "base": 0}
    assert _shown("lifetime_requests", "live") == 5


def _shown(name: str, role: str) -> float | None:
    return REGISTRY.get_sample_value(f"erratad_generation_{name}", {"role": role})
