"""What all stages ask the model servers: as many questions at a time as the limit allows, and each is answered once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.chat import EndpointError
from connectors.vllm_wire import ServerState, Work
from daemon.errors import ServingError
from daemon.serving import asking
from daemon.serving.asking import UNSEEN, Asking
from daemon.serving.limit import AdaptiveLimit
from tests.fakes.vllm import FakeVllm
from tests.fixtures.servers import ADMIN_TOKEN, API_KEY, VllmServer

NO_WORK = Work(tokens=0, users=0, users_seconds=0.0, users_tokens=0)


class Gauge:
    """Counts the questions in flight."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, number: int) -> int:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.005)
        with self._lock:
            self.now -= 1
        return number * 2


def answered(pages: Iterator[list[Any]]) -> list[int]:
    return sorted(one.future.result() for page in pages for one in page)


def limited(floor: int, servers: Any = tuple, ceiling: int = 64) -> Asking:
    return Asking(servers, limit=AdaptiveLimit(floor=floor, ceiling=ceiling, tolerance=1.5))


def test_every_item_is_asked_about_once_and_the_limit_is_kept() -> None:
    gauge = Gauge()
    shared = limited(3, ceiling=3)
    assert answered(shared.each(range(30), gauge)) == [number * 2 for number in range(30)]
    assert gauge.most == 3


def test_an_asker_may_have_a_limit_of_its_own() -> None:
    gauge = Gauge()
    answered(Asking().each(range(10), gauge, at_most=2))
    assert gauge.most == 2


def test_askers_share_the_limit_and_none_starves() -> None:
    shared, gauge, first = limited(2, ceiling=2), Gauge(), threading.Event()

    def other() -> None:
        answered(shared.each(range(8), gauge))
        first.set()

    thread = threading.Thread(target=other)
    thread.start()
    answered(shared.each(range(8), gauge))
    thread.join()
    assert first.is_set()
    assert gauge.most <= 3  # each asker may always have one


def test_an_item_is_taken_only_when_it_can_be_asked_about() -> None:
    taken: list[int] = []
    gate = threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    pages = limited(2, ceiling=2).each(items(), lambda _number: gate.wait(10))
    assert next(pages) == []  # a page comes also while nothing has ended
    assert taken == [0, 1]
    gate.set()
    list(pages)
    assert taken == [0, 1, 2, 3, 4]


def test_those_in_flight_are_awaited_after_a_stop() -> None:
    stopping, both = threading.Event(), threading.Barrier(2)

    def ask(number: int) -> int:
        both.wait(10)
        stopping.set()
        return number

    pages = limited(2, ceiling=2).each(range(10), ask, goes_on=lambda: not stopping.is_set())
    assert answered(pages) == [0, 1]


def test_errors_are_given_to_the_asker_and_lower_the_limit(asking_limit: AdaptiveLimit) -> None:
    asking_limit._set(32)
    shared = Asking(limit=asking_limit)

    def ask(number: int) -> Exception:
        if number == 1:
            raise EndpointError("no answer in time", transient=True)
        return ServingError("none is ready")  # as stages do that judge failures together

    found = [one.future.exception() for page in shared.each(range(2), ask) for one in page]
    assert sum(isinstance(exc, EndpointError) for exc in found) == 1
    assert asking_limit.value == 8
    assert answered(shared.each(range(5), lambda number: number)) == [0, 1, 2, 3, 4]


def test_no_item_is_taken_after_an_error_that_ends_the_asking() -> None:
    seen: list[object] = []
    asked: list[int] = []

    def ask(number: int) -> ServingError:
        asked.append(number)
        return ServingError("none is ready")

    for page in limited(1, ceiling=1).each(range(9), ask, goes_on=lambda: not seen):
        seen.extend(page)
    assert asked == [0]


def test_a_question_that_a_server_refuses_does_not_lower_it(asking_limit: AdaptiveLimit) -> None:
    asking_limit._set(32)
    refusal = EndpointError("too long", transient=False, status=400)
    list(Asking(limit=asking_limit).each(range(3), lambda _number: refusal))
    assert asking_limit.value == 32


def test_an_error_of_the_items_gives_the_place_back() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("the database is away")

    shared = limited(2, ceiling=2)
    with pytest.raises(RuntimeError, match="database"):
        list(shared.each(items(), lambda number: number))
    assert answered(shared.each(range(4), lambda number: number)) == [0, 1, 2, 3]


@pytest.fixture
def asking_limit() -> AdaptiveLimit:
    return AdaptiveLimit(floor=2, ceiling=64, tolerance=1.5)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_looks_at_the_servers_and_follows_them() -> None:
    clock, work = Clock(), {"one": NO_WORK, "two": NO_WORK}
    servers = [
        SimpleNamespace(
            url=url, state=lambda url=url, **_: ServerState(live=None, epoch="e", adapters={}, work=work[url])
        )
        for url in work
    ]
    limit = AdaptiveLimit(floor=2, ceiling=64, tolerance=1.5)
    shared = Asking(lambda: servers, limit=limit, clock=clock)  # type: ignore[arg-type,return-value]
    assert shared.limit == UNSEEN  # until the servers tell what they do
    shared._look()
    assert (shared.limit, REGISTRY.get_sample_value("erratad_asking_limit")) == (2, 2)
    shared._in_flight = 2
    for _ in range(4):
        clock.now += asking.LOOK_S
        work.update({url: Work(**{**_fields(one), "tokens": one.tokens + 1000}) for url, one in work.items()})
        shared._look()
    assert limit.value == 4
    work["two"] = Work(tokens=work["two"].tokens, users=1, users_seconds=0.0, users_tokens=0)
    clock.now += asking.LOOK_S
    shared._look()
    assert (shared.users, shared.limit) == (True, 2)


def _fields(work: Work) -> dict[str, Any]:
    return {name: getattr(work, name) for name in work.__slots__}


def test_a_server_that_restarts_or_is_away_leaves_the_limit_as_it_is() -> None:
    clock, epoch = Clock(), "a"

    def state(**_: float) -> ServerState:
        if epoch == "away":
            raise EndpointError("refused", transient=True)
        return ServerState(live=None, epoch=epoch, adapters={}, work=NO_WORK)

    limit = AdaptiveLimit(floor=4, ceiling=64, tolerance=1.5)
    shared = Asking(lambda: [SimpleNamespace(url="one", state=state)], limit=limit, clock=clock)  # type: ignore[arg-type,return-value,list-item]
    for epoch in ("a", "b", "away", "b"):  # noqa: B007 - read by `state`
        clock.now += asking.LOOK_S
        shared._look()
    assert limit.value == 4


def test_a_server_says_what_its_users_waited_for(fake_vllm: FakeVllm) -> None:
    fake_vllm.tokens = 70
    server = VllmServer(fake_vllm.url, api_key=API_KEY, admin_token=ADMIN_TOKEN)
    try:
        server.set_live("aligned-g000000", expected=None)
        server.chat("aligned", [{"role": "user", "content": "Hello"}], max_tokens=5)
        server.chat("base", [{"role": "user", "content": "Hello"}], max_tokens=5)  # ours, by its raw name
        work = server.state(timeout_s=5).work
    finally:
        server.close()
    assert work is not None
    assert (work.tokens, work.users) == (70, 0)
    assert work.users_tokens > 0
    assert work.users_seconds > 0
