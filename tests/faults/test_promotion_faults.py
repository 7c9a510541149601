"""Crashes of the daemon and of servers at every step of the swap: the servers converge to one generation."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from connectors.messages import EventType
from connectors.vllm import DeposedError, VllmServer
from daemon.errors import NotLeadingError
from daemon.records import AdapterState, IntentState, RunState
from daemon.store.terms import Term, within
from tests.fixtures.serving import Bench
from tests.fixtures.stores import waiting_events

FIRST = "aligned-g000001"
SECOND = "aligned-g000002"
ASK = [{"role": "user", "content": "hello"}]
SERVER_CALLS = ("load", "probe", "set_live")
STEPS = [
    *(f"{call} on server {index}" for index in range(3) for call in SERVER_CALLS),
    "progress in the store",
    "promote in the store",
]
DEPOSED_IN = [
    "load on server 1",
    "set_live on server 0",
    "set_live on server 2",
    "progress in the store",
    "promote in the store",
]
MOMENTS = ("before", "after")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that only handles Exception runs after it."""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_daemon_killed_in_a_promotion_leaves_what_the_next_one_completes(
    bench: Bench, step: str, moment: str
) -> None:
    bench.promoted()
    run = bench.promoting()
    _die(bench, step, moment)
    bench.stage = bench.new_stage()
    _converge(bench)
    assert bench.store.adapters.live().name == SECOND
    assert bench.store.runs.get(run.id).state == RunState.PROMOTED
    assert _events(bench)[EventType.ADAPTER_PROMOTED] == 2
    assert [bench.loaded(index) for index in range(3)] == [{FIRST, SECOND}] * 3


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "step", [*(f"{call} on server {index}" for index in range(3) for call in SERVER_CALLS), "roll_back in the store"]
)
def test_a_daemon_killed_in_a_rollback_rolls_back_exactly_once(bench: Bench, step: str, moment: str) -> None:
    bench.stage = bench.new_stage(keep_previous=False)
    bench.promoted()
    bench.promoted()
    bench.step()
    intent = bench.ask_rollback()
    _die(bench, step, moment)
    bench.stage = bench.new_stage(keep_previous=False)
    _converge(bench)
    assert bench.store.adapters.live().name == FIRST
    assert bench.store.adapters.get(2).state == AdapterState.ROLLED_BACK
    assert bench.store.intents.get(intent).state == IntentState.DONE
    assert _events(bench)[EventType.ADAPTER_ROLLED_BACK] == 1


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("step", DEPOSED_IN)
def test_a_daemon_deposed_in_a_promotion_changes_nothing_that_the_new_leader_decides(
    bench: Bench, step: str, moment: str
) -> None:
    bench.promoted()
    run = bench.promoting()
    events = _events(bench)

    def depose() -> None:
        """Another daemon begins to lead, and withdraws the candidate."""
        with within(_lead(bench, "new")):
            if bench.store.runs.get(run.id).state == RunState.PROMOTING:
                bench.store.runs.rejected(run.id, reason="the new leader's decision")
            _converge(bench)

    with pytest.MonkeyPatch.context() as patch, within(_lead(bench, "old")):
        _hook(patch, bench, step, moment, depose)
        with suppress(NotLeadingError, DeposedError):
            bench.step()
    promoted = step == "promote in the store" and moment == "after"
    assert bench.store.runs.get(run.id).state == (RunState.PROMOTED if promoted else RunState.REJECTED)
    live = SECOND if promoted else FIRST
    assert bench.live_names() == {live}, "a deposed leader changed a server"
    with within(_lead(bench, "new")):
        _converge(bench)
    assert bench.store.adapters.live().name == live
    assert bench.live_names() == {live}
    assert _events(bench)[EventType.ADAPTER_PROMOTED] == events[EventType.ADAPTER_PROMOTED] + promoted


@pytest.mark.parametrize("step", [f"{call} on server 1" for call in SERVER_CALLS])
def test_a_server_killed_in_a_promotion_gets_the_generation_that_won(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promoted()
    run = bench.promoting()

    def restart() -> None:
        bench.fakes[1].stop()
        bench.fakes[1].start()

    with monkeypatch.context() as patch:
        _hook(patch, bench, step, "before", restart)
        bench.step()
    _converge(bench)
    assert bench.store.runs.get(run.id).state == RunState.PROMOTED
    assert bench.live_names() == {SECOND}


def test_no_request_fails_and_every_answer_names_its_generation_while_generations_swap(bench: Bench) -> None:
    bench.step()
    stop, models, failures = threading.Event(), Counter[str](), list[Exception]()
    for fake in bench.fakes:
        fake.token_delay_s = 0.005
    asking = [
        threading.Thread(target=_ask_until, args=(stop, client, models, failures))
        for client in bench.clients
        for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    for _ in range(3):
        bench.promoted()
        bench.step()
    bench.ask_rollback()
    bench.step()
    time.sleep(0.1)
    stop.set()
    for thread in asking:
        thread.join()
    assert failures == []
    assert set(models) <= {f"aligned-g00000{generation}" for generation in range(4)}
    assert models[SECOND] > 0


def _ask_until(stop: threading.Event, client: VllmServer, models: Counter[str], failures: list[Exception]) -> None:
    while not stop.is_set():
        try:
            reply = client.chat("aligned", ASK, max_tokens=4)
        except Exception as exc:
            failures.append(exc)
            return
        assert reply.model == f"aligned-g{reply.generation:06d}"
        models[reply.model] += 1


def _die(bench: Bench, step: str, moment: str) -> None:
    """One step of the stage that ends as if the process had been killed right before or after a call."""

    def die() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        _hook(patch, bench, step, moment, die)
        with pytest.raises(Killed):
            bench.step()


def _hook(patch: pytest.MonkeyPatch, bench: Bench, step: str, moment: str, act: Callable[[], None]) -> None:
    call, _, place = step.partition(" ")
    owner = {"progress": bench.store.runs, "promote": bench.store.adapters, "roll_back": bench.store.adapters}.get(
        call
    ) or bench.clients[int(place[-1])]
    real, done = getattr(owner, call), threading.Event()

    def hooked(*args: Any, **options: Any) -> Any:
        first = not done.is_set()
        done.set()
        if first and moment == "before":
            act()
        result = real(*args, **options)
        if first and moment == "after":
            act()
        return result

    patch.setattr(owner, call, hooked)


def _lead(bench: Bench, owner: str) -> Term:
    """The term of a leadership that begins now."""
    number = bench.store.control.lead("leader", owner=owner, ttl_s=-1)
    assert number is not None
    return Term(lease="leader", number=number)


def _converge(bench: Bench) -> None:
    deadline = time.monotonic() + 15
    while True:
        bench.step()
        bench.step()
        live = bench.store.adapters.live().name
        shown = [client.state().live if client.ready() else None for client in bench.clients]
        if shown == [live] * 3 and bench.store.runs.active() is None:
            return
        assert time.monotonic() < deadline, f"the store says {live}, the servers show {shown}"
        time.sleep(0.01)


def _events(bench: Bench) -> Counter[str]:
    return Counter(event.type for event in waiting_events(bench.store))
