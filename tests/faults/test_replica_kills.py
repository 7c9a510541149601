"""Three replicas, one of them killed at each step of the swap, and replicas that join: one generation is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from daemon.records import RunState
from daemon.serving.discovery import DiscoveryStage
from tests.fakes.vllm import FakeVllm
from tests.fixtures.life import life
from tests.fixtures.serving import Bench

FIRST, SECOND, THIRD = (f"aligned-g00000{generation}" for generation in (1, 2, 3))
ASK = [{"role": "user", "content": "hello"}]
KILLS = [
    ("before", "load", 1, 1),
    ("during", "load", 1, 1),
    ("after", "load", 1, 1),
    ("during", "probe", 1, 1),
    ("after", "probe", 2, 2),
    ("before", "set_live", 1, 1),
    ("before", "set_live", 1, 0),
    ("after", "set_live", 1, 1),
    ("before", "promote", 0, 0),
    ("before", "promote", 0, 2),
    ("after", "promote", 0, 1),
]
"""(moment, call, server that is called, server that dies)"""


@pytest.mark.parametrize("back", ["at once", "later"])
@pytest.mark.parametrize(("moment", "call", "called", "victim"), KILLS)
def test_a_replica_killed_in_a_promotion_ends_with_one_generation_everywhere(
    bench: Bench, moment: str, call: str, called: int, victim: int, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promoted()
    run = bench.promoting()
    fake = bench.fakes[victim]
    with monkeypatch.context() as patch:
        if moment == "during":
            fake.dies_during = call
        else:
            _hook(patch, bench, moment, call, called, fake.kill)
        bench.step()
    _gone(fake)
    if back == "later":
        bench.step()
        assert len(bench.live_names()) == 1, "two generations answer while one replica is away"
    fake.start()
    _converge(bench)
    assert bench.store.runs.get(run.id).state == RunState.PROMOTED
    assert bench.live_names() == {SECOND}


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_replica_killed_while_the_oldest_generation_is_unloaded_keeps_the_live_one(
    bench: Bench, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        bench.promoted()
    fake = bench.fakes[1]
    with monkeypatch.context() as patch:
        if moment == "during":
            fake.dies_during = "unload"
        else:
            _hook(patch, bench, moment, "unload", 1, fake.kill)
        bench.step()
    _gone(fake)
    fake.start()
    _converge(bench)
    assert bench.live_names() == {THIRD}
    assert [bench.loaded(index) for index in range(3)] == [{SECOND, THIRD}, {THIRD}, {SECOND, THIRD}]


def test_a_replica_killed_while_it_drains_keeps_no_generation_alive(bench: Bench) -> None:
    bench.promoted()
    fake = bench.fakes[1]
    fake.token_delay_s = 5.0
    errors: list[EndpointError] = []

    def ask() -> None:
        try:
            bench.clients[1].chat("aligned", ASK, max_tokens=4)
        except EndpointError as exc:
            errors.append(exc)

    asking = threading.Thread(target=ask)
    asking.start()
    _until(lambda: bench.clients[1].state().adapters[FIRST] == 1)
    bench.promoted()
    bench.promoted()
    bench.step()
    assert bench.loaded(0) == {SECOND, THIRD}
    assert bench.loaded(1) == {FIRST, SECOND, THIRD}, "it still answers a request of the first generation"
    fake.kill()
    asking.join()
    assert len(errors) == 1
    fake.start()
    _converge(bench)
    assert bench.live_names() == {THIRD}
    assert bench.loaded(1) == {THIRD}


def test_replicas_that_join_get_the_live_generation_before_traffic_and_those_that_leave_are_not_waited_for(
    bench: Bench, make_client: Callable[..., VllmServer], tmp_path: Any
) -> None:
    file = tmp_path / "replicas"
    file.write_text(bench.fakes[0].url)
    stage = DiscoveryStage(source=f"file://{file}", interval_s=0.01, connect=make_client, publish=bench.fleet.replace)
    stage.step(life())
    bench.promoted()
    assert [server.url for server in bench.fleet.servers] == [bench.fakes[0].url]
    assert bench.clients[1].state().live is None, "a replica that is not listed is left alone"
    file.write_text(f"{bench.fakes[0].url}\n{bench.fakes[1].url}  # new\n")
    stage.step(life())
    with pytest.raises(EndpointError, match="no generation is live"):
        bench.clients[1].chat("aligned", ASK, max_tokens=4)
    bench.step()
    assert bench.clients[1].state().live == FIRST
    file.write_text(bench.fakes[1].url)
    bench.fakes[0].kill()
    stage.step(life())
    bench.promoted()
    assert bench.clients[1].state().live == SECOND
    file.write_text("")
    assert "2 vLLM servers" not in (said := stage.step(life()).sentence)
    assert said.startswith("1 vLLM servers as known before")
    assert len(bench.fleet.servers) == 1
    stage.close()


def _hook(
    patch: pytest.MonkeyPatch, bench: Bench, moment: str, call: str, called: int, act: Callable[[], None]
) -> None:
    owner: Any = bench.store.adapters if call == "promote" else bench.clients[called]
    real, pending = getattr(owner, call), [act]

    def hooked(*args: Any, **options: Any) -> Any:
        due = [pending.pop()] if pending else []
        if moment == "before":
            for act in due:
                act()
        result = real(*args, **options)
        if moment == "after":
            for act in due:
                act()
        return result

    patch.setattr(owner, call, hooked)


def _gone(fake: FakeVllm) -> None:
    fake.kill()
    assert fake.dies_during is None, "the server was to die in a call that was never made"


def _converge(bench: Bench) -> None:
    def one_generation() -> bool:
        bench.step()
        live = bench.store.adapters.live().name
        shown = [client.state().live if client.ready() else None for client in bench.clients]
        return shown == [live] * 3 and bench.store.runs.active() is None

    _until(one_generation)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 15 s"
        time.sleep(0.02)
