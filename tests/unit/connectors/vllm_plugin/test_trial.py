"""A candidate on trial inside the servers: its share, that replicas agree, and that copies do not delay users."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from connectors.chat import GENERATION_HEADER, EndpointError
from connectors.vllm import VllmServer
from connectors.vllm_plugin.trial import CONVERSATION_HEADER, AnswerRecorder, conversation_key
from connectors.vllm_wire import Trial
from tests.fakes.vllm import FakeVllm

BASE = "aligned-g000000"
FIRST = "aligned-g000001"
ASK = [{"role": "user", "content": "hello"}]
USERS = httpx.Client(headers={"connection": "close"}, timeout=10)  # a server waits for open connections when it stops


def trial(**changes: Any) -> Trial:
    return Trial(**{"mode": "canary", "name": FIRST, "share": 0.3, "concurrency": 1, **changes})


@pytest.fixture
def fakes(tmp_path: Any) -> Iterator[list[FakeVllm]]:
    """Two servers with the base model live and one candidate loaded."""
    (tmp_path / "adapter_config.json").write_text("{}")
    servers = [FakeVllm() for _ in range(2)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clients(fakes: list[FakeVllm], make_client: Callable[..., VllmServer], tmp_path: Any) -> list[VllmServer]:
    clients = [make_client(fake.url) for fake in fakes]
    for client in clients:
        client.load(FIRST, tmp_path)
        client.set_live(BASE, expected=None)
    return clients


def ask(fake: FakeVllm, who: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if who is None else {CONVERSATION_HEADER: who}
    request = {"model": "aligned", "messages": ASK, "max_tokens": 5, **body}
    return USERS.post(f"{fake.url}/v1/chat/completions", json=request, headers=headers)


def test_a_canary_answers_its_share_and_all_replicas_agree_on_every_conversation(
    fakes: list[FakeVllm], clients: list[VllmServer]
) -> None:
    for client in clients:
        client.try_out(trial())
    sides = {f"talk-{n}": [ask(fake, f"talk-{n}").json()["model"] for fake in fakes] for n in range(100)}
    assert all(len(set(models)) == 1 for models in sides.values())
    counted = Counter(models[0] for models in sides.values())
    assert set(counted) == {BASE, FIRST}
    assert 15 <= counted[FIRST] <= 45
    assert clients[0].state().traffic[FIRST].requests == counted[FIRST]


def test_the_answer_names_the_generation_that_gave_it(fakes: list[FakeVllm], clients: list[VllmServer]) -> None:
    clients[0].try_out(trial(share=1.0))
    answer = ask(fakes[0])
    assert (answer.json()["model"], answer.headers[GENERATION_HEADER]) == (FIRST, "1")
    assert fakes[0].requests[-1]["model"] == FIRST
    assert fakes[0].requests[-1]["messages"][0]["role"] == "system"
    lines = ask(fakes[0], stream=True).text.splitlines()
    assert {json.loads(line[6:])["model"] for line in lines if line.startswith("data: {")} == {FIRST}


def test_raw_names_are_never_diverted(fakes: list[FakeVllm], clients: list[VllmServer]) -> None:
    clients[0].try_out(trial(share=1.0))
    assert ask(fakes[0], model=BASE).json()["model"] == BASE
    assert ask(fakes[0], model="base").json()["model"] == "base"


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (
            ([(b"x-erratad-conversation", b"7")], {"messages": ASK}),
            ([(b"x-erratad-conversation", b"7")], {"user": "a"}),
        ),
        (([], {"user": "ann", "messages": ASK}), ([], {"user": "ann", "messages": [*ASK, *ASK]})),
        (([], {"messages": ASK}), ([], {"messages": [*ASK, {"role": "assistant", "content": "hi"}, *ASK]})),
        (([], {"prompt": "Once"}), ([], {"prompt": "Once"})),
    ],
    ids=["header", "user", "first messages", "completion"],
)
def test_a_conversation_keeps_its_key_while_it_grows(first: Any, later: Any) -> None:
    assert conversation_key(*first) == conversation_key(*later)


def test_different_conversations_have_different_keys() -> None:
    other = [{"role": "user", "content": "bye"}]
    keys = {
        conversation_key([(b"x-erratad-conversation", b"1")], {}),
        conversation_key([], {"user": "1"}),
        conversation_key([], {"messages": ASK}),
        conversation_key([], {"messages": other}),
        conversation_key([], {"messages": [{"role": "system", "content": "Be brief."}, *ASK]}),
        conversation_key([], {"messages": "no list"}),
    }
    assert len(keys) == 6


def test_each_candidate_gets_other_conversations() -> None:
    talks = [f"talk-{n}".encode() for n in range(200)]
    first, second = ({talk for talk in talks if trial(name=name).takes(talk)} for name in (FIRST, "aligned-g000002"))
    assert first != second


def test_a_canary_ends_with_its_promotion_its_drain_or_by_order(
    fakes: list[FakeVllm], clients: list[VllmServer]
) -> None:
    client = clients[0]
    client.try_out(trial())
    assert client.state().trial == trial()
    client.try_out(None)
    assert client.state().trial is None
    client.try_out(trial())
    client.set_live(FIRST, expected=BASE)
    assert client.state().trial is None
    client.set_live(BASE, expected=FIRST)
    client.try_out(trial(share=1.0))
    client.unload(FIRST)
    assert client.state().trial is None
    assert ask(fakes[0]).json()["model"] == BASE


@pytest.mark.parametrize(("name", "status"), [("aligned-g000009", 404), (BASE, 404)])
def test_only_a_loaded_candidate_is_tried_out(clients: list[VllmServer], name: str, status: int) -> None:
    with pytest.raises(EndpointError) as caught:
        clients[0].try_out(trial(name=name))
    assert caught.value.status == status


def test_a_server_without_a_live_generation_refuses_canary_conversations_too(
    fakes: list[FakeVllm], make_client: Callable[..., VllmServer], tmp_path: Any
) -> None:
    client = make_client(fakes[0].url)
    client.load(FIRST, tmp_path)
    client.try_out(trial(share=1.0))
    assert ask(fakes[0]).status_code == 503


def test_a_shadow_answers_copies_that_nobody_sees(fakes: list[FakeVllm], clients: list[VllmServer]) -> None:
    clients[0].try_out(trial(mode="shadow", share=1.0))
    answer = ask(fakes[0])
    assert (answer.json()["model"], answer.headers[GENERATION_HEADER]) == (BASE, "0")
    figures = _figures(clients[0], pairs=1)
    assert (figures.errors, figures.live_errors, figures.dropped) == (0, 0, 0)
    assert {request["model"] for request in fakes[0].requests} == {"base", FIRST}
    assert set(clients[0].state().traffic) == {BASE}


@pytest.mark.parametrize("text", ["", "!" * 40])
def test_an_answer_that_says_nothing_is_an_error_of_the_shadow(
    fakes: list[FakeVllm], clients: list[VllmServer], text: str
) -> None:
    fakes[0].answer = lambda model, messages: text if model == FIRST else "Fine."
    clients[0].try_out(trial(mode="shadow", share=1.0))
    ask(fakes[0])
    figures = _figures(clients[0], pairs=1)
    assert (figures.errors, figures.live_errors) == (1, 0)


def test_a_failing_shadow_is_an_error_of_its_own(fakes: list[FakeVllm], clients: list[VllmServer]) -> None:
    def fail(model: str, _messages: Any) -> str:
        if model == FIRST:
            raise RuntimeError("broken adapter")
        return "Fine."

    fakes[0].answer = fail
    clients[0].try_out(trial(mode="shadow", share=1.0))
    assert ask(fakes[0]).status_code == 200
    assert _figures(clients[0], pairs=1).errors == 1


def test_streams_and_other_names_are_not_copied(fakes: list[FakeVllm], clients: list[VllmServer]) -> None:
    clients[0].try_out(trial(mode="shadow", share=1.0))
    ask(fakes[0], stream=True)
    ask(fakes[0], model=BASE)
    ask(fakes[0], model="base")
    assert [request["model"] for request in fakes[0].requests] == ["base"] * 3


def test_slow_copies_hold_no_live_request_up_and_further_ones_are_dropped(
    fakes: list[FakeVllm], clients: list[VllmServer]
) -> None:
    def slow_candidate(model: str, _messages: Any) -> str:
        return "Fine." if model == "base" else "Slow but fine."

    fakes[0].answer = slow_candidate
    fakes[0].token_delay_s = 0.1
    clients[0].try_out(trial(mode="shadow", share=1.0, concurrency=1))
    begun = time.monotonic()
    for _ in range(5):
        assert ask(fakes[0]).json()["model"] == BASE
    assert time.monotonic() - begun < 5 * 0.1 + 1.0
    figures = _figures(clients[0], pairs=1)
    assert figures.dropped > 0
    assert figures.seconds / figures.pairs > figures.live_seconds / figures.pairs


def test_a_shadow_in_flight_is_waited_for_before_its_adapter_is_unloaded(
    fakes: list[FakeVllm], clients: list[VllmServer]
) -> None:
    fakes[0].token_delay_s = 0.1
    clients[0].try_out(trial(mode="shadow", share=1.0))
    ask(fakes[0])
    assert not clients[0].unload(FIRST)
    _figures(clients[0], pairs=1)
    assert clients[0].unload(FIRST)


@pytest.mark.parametrize(
    ("status", "body", "sound"),
    [
        (200, {"choices": [{"message": {"content": "Hi"}}]}, True),
        (200, {"choices": [{"text": "Hi"}]}, True),
        (200, {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]}, True),
        (200, {"choices": [{"message": {"content": "Hi"}}, {"message": {"content": " "}}]}, False),
        (200, {"choices": []}, False),
        (200, "no object", False),
        (500, {"choices": [{"message": {"content": "Hi"}}]}, False),
    ],
)
def test_a_sound_answer_says_something_in_every_choice(status: int, body: Any, sound: bool) -> None:
    recorder = AnswerRecorder()

    async def answer() -> None:
        await recorder.send({"type": "http.response.start", "status": status})
        await recorder.send({"type": "http.response.body", "body": json.dumps(body).encode()})

    asyncio.run(answer())
    assert recorder.sound == sound


def _figures(client: VllmServer, *, pairs: int) -> Any:
    deadline = time.monotonic() + 10
    while True:
        figures = client.state().shadowed.get(FIRST)
        if figures is not None and figures.pairs >= pairs:
            return figures
        assert time.monotonic() < deadline, f"no {pairs} pairs within 10 s: {figures}"
        time.sleep(0.02)
