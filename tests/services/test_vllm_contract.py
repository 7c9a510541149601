"""One contract, two servers: the fake one, and a real vLLM with erratad's plugin and a tiny model."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.chat import EndpointError
from connectors.vllm import AliasConflict, DeposedError, VllmServer
from connectors.vllm_wire import ADMIN_HEADER, Trial
from daemon.chat.preparation import Preparation
from daemon.evidence.exchange import Match, verify
from tests.fakes.vllm import ADMIN_TOKEN, EXCHANGES, GUIDANCE, FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.servers import API_KEY

ALIAS, BASE = "aligned", "base"
BASE_GENERATION = "aligned-g000000"
MESSAGES = [{"role": "user", "content": "Name three colours of the rainbow, one after the other."}]
LONG = {"model": ALIAS, "messages": MESSAGES, "max_tokens": 900, "min_tokens": 900, "temperature": 0, "stream": True}
_generations = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    url: str
    client: VllmServer
    make_adapter: Callable[..., Path]

    def load(self, seed: int = 1, **options: Any) -> str:
        """Load a fresh adapter under a name that no other test has."""
        name = f"aligned-g{next(_generations):06d}"
        self.client.load(name, self.make_adapter(seed=seed, **options))
        return name

    def live(self, seed: int = 1) -> str:
        name = self.load(seed)
        self.client.set_live(name, expected=None)
        return name

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=60)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.vllm)])
def server(
    request: pytest.FixtureRequest, make_client: Callable[..., VllmServer], make_adapter: Callable[..., Path]
) -> Iterator[Server]:
    """A server that may have live and loaded adapters from earlier tests."""
    if request.param == "real":
        url = request.getfixturevalue("real_vllm").url
    else:
        fake: FakeVllm = request.getfixturevalue("fake_vllm")
        fake.answer = _words
        fake.token_delay_s = 0.002
        url = fake.url
    yield Server(url=url, client=make_client(url), make_adapter=make_adapter)
    client = make_client(url)
    client.set_live(BASE_GENERATION, expected=None)
    for name in client.state().adapters:
        _gone(client, name)


def _words(model: str, _messages: list[dict[str, Any]]) -> str:
    return " ".join(f"{model}-{number}" for number in range(250))


def _gone(client: VllmServer, name: str) -> None:
    deadline = time.monotonic() + 30
    while not client.unload(name):
        assert time.monotonic() < deadline, f"{name} is still in flight"
        time.sleep(0.02)


def _streamed(lines: Iterator[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def test_an_answer_under_the_alias_names_its_generation(server: Server) -> None:
    name = server.live()
    reply = server.client.chat(ALIAS, MESSAGES, max_tokens=8)
    assert (reply.model, reply.generation) == (name, int(name[-6:]))
    assert reply.text
    assert reply.completion_tokens == 8


def test_the_time_of_answers_is_exported_by_generation(server: Server) -> None:
    first, second = server.live(1), server.live(2)
    for _ in range(2):
        server.client.chat(ALIAS, MESSAGES, max_tokens=2)
    server.client.chat(first, MESSAGES, max_tokens=2)  # by its name: not under the alias

    def answers() -> dict[str, float]:
        shown = httpx.get(f"{server.url}/metrics", headers={ADMIN_HEADER: ADMIN_TOKEN}).text
        return {
            name: float(count)
            for name, count in re.findall(
                r'^erratad_request_duration_seconds_count\{generation="(.*)"\} (.*)$', shown, re.M
            )
        }

    assert answers()[second] == 2
    assert first not in answers()
    server.client.set_live(first, expected=second)
    _gone(server.client, second)
    assert second not in answers()


def test_every_chunk_of_a_stream_names_its_generation(server: Server) -> None:
    name, body = server.live(), {**LONG, "max_tokens": 5, "min_tokens": 5}
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = _streamed(response.iter_lines())
    assert response.headers["x-erratad-generation"] == str(int(name[-6:]))
    assert {chunk["model"] for chunk in chunks} == {name}


def test_generation_zero_is_the_base_model_under_its_own_name(server: Server) -> None:
    server.client.set_live(BASE_GENERATION, expected=None)
    reply = server.client.chat(ALIAS, MESSAGES, max_tokens=4)
    assert (reply.model, reply.generation) == (BASE_GENERATION, 0)
    assert server.client.chat(BASE, MESSAGES, max_tokens=4).model == BASE
    named = server.client.chat(BASE_GENERATION, MESSAGES, max_tokens=4)
    assert named.model == BASE_GENERATION


def test_plain_completions_follow_the_alias_too(server: Server) -> None:
    name = server.live()
    with server.http() as http:
        answer = http.post("/v1/completions", json={"model": ALIAS, "prompt": "Red, green and", "max_tokens": 3})
    assert answer.json()["model"] == name


def test_the_base_name_is_not_answered_by_the_live_adapter(server: Server) -> None:
    before = server.client.score(BASE, MESSAGES, "Red, green, blue")
    server.live()
    reply = server.client.chat(BASE, MESSAGES, max_tokens=4)
    assert (reply.model, reply.generation) == (BASE, None)
    assert server.client.score(BASE, MESSAGES, "Red, green, blue").logprob == pytest.approx(before.logprob, abs=0.2)


def test_the_models_list_shows_the_alias_while_something_is_live(server: Server) -> None:
    name = server.live()
    with server.http() as http:
        listed = {model["id"] for model in http.get("/v1/models").json()["data"]}
    assert {ALIAS, BASE, name} <= listed


def test_a_generation_that_is_not_loaded_is_not_found(server: Server) -> None:
    with pytest.raises(EndpointError) as caught:
        server.client.chat("aligned-g999999", MESSAGES, max_tokens=4)
    assert (caught.value.status, caught.value.transient) == (404, False)


def test_a_stale_swap_is_refused_and_changes_nothing(server: Server) -> None:
    first, second = server.live(), server.load(2)
    with pytest.raises(AliasConflict, match=first):
        server.client.set_live(second, expected=BASE_GENERATION)
    assert server.client.state().live == first
    server.client.set_live(second, expected=first)
    assert server.client.state().live == second


def test_a_generation_that_is_not_loaded_cannot_go_live(server: Server) -> None:
    before = server.client.state().live
    with pytest.raises(EndpointError, match="load it first"):
        server.client.set_live("aligned-g999999", expected=None)
    assert server.client.state().live == before


def test_orders_of_an_earlier_leadership_change_nothing_once_a_later_one_was_heard_of(
    server: Server, make_client: Callable[..., VllmServer]
) -> None:
    live, other = server.live(), server.load(2)
    heard = server.client.state().term
    deposed, leading = (make_client(server.url, term=lambda term=heard + by: term) for by in (1, 2))
    deposed.set_live(other, expected=live)
    assert leading.ready(), "any admin request tells the server of a leadership"
    assert server.client.state().term == heard + 2
    orders: list[Callable[[], object]] = [
        lambda: deposed.set_live(live, expected=None),
        lambda: deposed.load("aligned-g999998", server.make_adapter()),
        lambda: deposed.unload(live),
        lambda: deposed.try_out(Trial(mode="canary", name=live, share=1.0, concurrency=1)),
        lambda: deposed.try_out(None),
    ]
    for order in orders:
        with pytest.raises(DeposedError, match=f"heard of term {heard + 2}"):
            order()
    state = deposed.state()
    assert (state.live, set(state.adapters), state.trial) == (other, {live, other}, None)
    assert deposed.probe(live).ok
    leading.set_live(live, expected=other)
    server.client.set_live(other, expected=live)  # an operator's, of no leadership


def test_an_order_that_waits_for_its_turn_is_checked_again_when_it_comes(
    server: Server, make_client: Callable[..., VllmServer]
) -> None:
    name = f"aligned-g{next(_generations):06d}"
    heard = server.client.state().term
    deposed, leading = (make_client(server.url, term=lambda term=heard + by: term) for by in (1, 2))
    folder = server.make_adapter()
    with ThreadPoolExecutor(9) as pool:
        loading = [pool.submit(deposed.load, name, folder) for _ in range(8)]
        telling = pool.submit(leading.ready)
        outcomes = [future.exception() for future in loading]
        assert telling.result()
    assert all(outcome is None or isinstance(outcome, DeposedError) for outcome in outcomes)
    with pytest.raises(DeposedError):
        deposed.load(name, folder)


def test_loading_twice_does_nothing_and_a_name_is_never_reused(server: Server) -> None:
    folder, name = server.make_adapter(), f"aligned-g{next(_generations):06d}"
    server.client.load(name, folder)
    server.client.load(name, folder)
    assert server.client.state().adapters == {name: 0}
    with pytest.raises(EndpointError, match="another generation"):
        server.client.load(name, server.make_adapter(seed=9))
    assert server.client.unload(name)
    with pytest.raises(EndpointError, match="another generation"):
        server.client.load(name, server.make_adapter(seed=9))
    server.client.load(name, folder)


@pytest.mark.parametrize("name", [BASE, ALIAS, BASE_GENERATION, "other-g000001", "aligned-g1", "../aligned-g000001"])
def test_an_adapter_cannot_take_a_name_that_means_something_else(server: Server, name: str) -> None:
    with pytest.raises(EndpointError) as caught:
        server.client.load(name, server.make_adapter())
    assert not caught.value.transient
    assert server.client.state().adapters == {}


def test_an_unusable_folder_is_refused_with_its_path(server: Server, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=f"{tmp_path}.*adapter_config.json") as caught:
        server.client.load("aligned-g888888", tmp_path)
    assert not caught.value.transient
    assert server.client.state().adapters == {}


def test_a_wrong_admin_token_changes_nothing(server: Server, make_client: Callable[..., VllmServer]) -> None:
    name, before = server.load(), server.client.state()
    stranger = make_client(server.url, admin_token=ADMIN_TOKEN[:-1])
    for call in (
        stranger.state,
        lambda: stranger.probe(name),
        lambda: stranger.unload(name),
        lambda: stranger.set_live(name, expected=None),
        lambda: stranger.load("aligned-g777777", server.make_adapter()),
    ):
        with pytest.raises(EndpointError) as caught:
            call()
        assert (caught.value.status, caught.value.transient) == (401, False)
    assert not stranger.ready()
    assert server.client.state() == before


CLOSED = [
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/adapters/x", "/invocations"),
    *("/tokenize", "/detokenize", "/metrics", "/load", "/generative_scoring", "/scale_elastic_ep"),
    *(
        "/is_scaling_elastic_ep",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/server_info",
        "/pause",
        "/sleep",
        "/collective_rpc",
    ),
    *("/reset_prefix_cache", "/v1/responses/render", "/v1/chat/completions/render", "/inference/v1/generate", "/v1/x"),
    *("//tokenize", "/tokenize/", "/%74okenize", "/v1/%2e%2e/tokenize", "/metrics/x", "/v1/models/", "//v1/models"),
]


@pytest.mark.parametrize("path", CLOSED)
def test_a_route_that_is_not_listed_is_not_found_with_and_without_a_key(server: Server, path: str) -> None:
    body = {"lora_name": "x", "lora_path": "/tmp", "name": "x", "src": "/tmp", "model": ALIAS, "messages": MESSAGES}
    with server.http() as http:
        answers = [http.post(path, json=body), http.get(path), http.options(path)]
        answers.append(http.post(path, json=body, headers={"Authorization": "none"}))
    assert [answer.status_code for answer in answers] == [404] * 4
    assert answers[0].json()["error"]["type"] == "NotFoundError"


def test_a_websocket_gets_no_connection(server: Server) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    with server.http() as http:
        for path in ("/v1/realtime", "/tokenize"):
            assert http.get(path, headers={**upgrade, **key}).status_code in {403, 404}


def test_the_admin_token_opens_the_routes_that_the_daemon_needs(server: Server) -> None:
    ask = {"model": BASE, "prompt": "Red"}
    own, bearer = {ADMIN_HEADER: ADMIN_TOKEN}, {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    for headers in (own, bearer):
        counted = httpx.post(f"{server.url}/tokenize", json=ask, headers=headers)
        assert (counted.status_code, counted.json()["count"] > 0) == (200, True)
        assert "vllm:num_requests_running" in httpx.get(f"{server.url}/metrics", headers=headers).text
        assert httpx.get(f"{server.url}/load", headers=headers).status_code == 404


def test_a_daemon_of_before_the_list_is_told_what_it_lacks(
    server: Server, make_client: Callable[..., VllmServer]
) -> None:
    older = make_client(server.url)
    del older._client.headers[ADMIN_HEADER]
    assert older.ready()
    assert older.chat(BASE, MESSAGES, max_tokens=2).model == BASE
    with pytest.raises(EndpointError, match=r"/tokenize needs the admin token \(x-erratad-admin-token\)") as caught:
        older.score(BASE, MESSAGES, "Red")
    assert (caught.value.status, caught.value.transient) == (404, False)


def test_the_open_routes_answer_probes_and_clients(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/erratad/v1/state").status_code == 401
    with server.http() as http:
        assert http.get("/v1/models").status_code == 200


def test_a_probe_tells_a_real_adapter_from_one_that_changes_nothing(server: Server) -> None:
    probe = server.client.probe(server.load())
    assert (probe.ok, probe.finite, probe.differs_from_base) == (True, True, True)
    assert probe.text
    base = server.client.probe(BASE_GENERATION)
    assert (base.ok, base.finite, base.differs_from_base) == (True, True, False)


def test_the_live_adapter_is_not_unloaded(server: Server) -> None:
    name = server.live()
    with pytest.raises(EndpointError, match="is live"):
        server.client.unload(name)
    assert server.client.chat(ALIAS, MESSAGES, max_tokens=2).model == name


def test_a_request_keeps_its_generation_over_a_flip_and_holds_off_the_unload(server: Server) -> None:
    old, new = server.live(1), server.load(2)
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        server.client.set_live(new, expected=old)
        assert server.client.chat(ALIAS, MESSAGES, max_tokens=2).model == new
        assert server.client.state().adapters[old] == 1
        assert not server.client.unload(old)
        with pytest.raises(EndpointError):
            server.client.chat(old, MESSAGES, max_tokens=2)
        chunks = _streamed(lines)
    assert {chunk["model"] for chunk in chunks} == {old}
    _gone(server.client, old)
    assert set(server.client.state().adapters) == {new}


def test_a_rollback_takes_back_a_drain(server: Server) -> None:
    old, new = server.live(1), server.load(2)
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        next(lines)
        server.client.set_live(new, expected=old)
        assert not server.client.unload(old)
        server.client.set_live(old, expected=new)
        assert server.client.chat(old, MESSAGES, max_tokens=2).model == old


def test_a_client_that_leaves_is_no_longer_counted(server: Server) -> None:
    old, new = server.live(1), server.load(2)
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        next(response.iter_lines())
    server.client.set_live(new, expected=old)
    _gone(server.client, old)


def test_no_request_fails_while_generations_change_under_load(server: Server) -> None:
    live, stop = server.live(1), threading.Event()
    seen: list[str] = []

    def ask(stream: bool) -> None:
        body = {"model": ALIAS, "messages": MESSAGES, "max_tokens": 6, "min_tokens": 6, "stream": stream}
        with server.http() as http:
            while not stop.is_set():
                response = http.post("/v1/chat/completions", json=body)
                assert response.status_code == 200, response.text
                models = {chunk["model"] for chunk in _streamed(iter(response.text.splitlines()))}
                (model,) = models or {response.json()["model"]}
                assert model.endswith(f"{int(response.headers['x-erratad-generation']):06d}")
                seen.append(model)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, stream) for stream in (True, False, True, False)]
        try:
            names = [live]
            _until(lambda: live in seen, asking)
            for seed in range(2, 7):
                names.append(server.load(seed))
                assert server.client.probe(names[-1]).ok
                server.client.set_live(names[-1], expected=names[-2])
                _until(lambda: names[-1] in seen, asking)
                _gone(server.client, names[-2])
        finally:
            stop.set()
        for future in asking:
            future.result(timeout=60)
    assert set(seen) == set(names)
    assert set(server.client.state().adapters) == {names[-1]}


def _until(condition: Callable[[], bool], asking: list[Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and not any(future.done() for future in asking):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_score_of_a_completion_adds_up_over_its_tokens(server: Server) -> None:
    short = server.client.score(BASE, MESSAGES, "Red")
    long = server.client.score(BASE, MESSAGES, "Red, green and blue.")
    assert short.tokens < long.tokens
    assert long.logprob < short.logprob < 0
    assert server.client.score(BASE, MESSAGES, "").tokens == 0


def test_an_unknown_model_is_an_error_that_names_it(server: Server) -> None:
    with pytest.raises(EndpointError, match="unknown") as caught:
        server.client.chat("unknown", MESSAGES, max_tokens=2)
    assert not caught.value.transient


def test_the_epoch_changes_with_a_restart_and_nothing_is_live_then(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], make_adapter: Callable[..., Path]
) -> None:
    client = make_client(fake_vllm.url)
    client.load("aligned-g000001", make_adapter())
    client.set_live("aligned-g000001", expected=None)
    before = client.state()
    fake_vllm.stop()
    assert not client.ready()
    fake_vllm.start()
    assert client.ready()
    after = client.state()
    assert (after.live, dict(after.adapters)) == (None, {})
    assert after.epoch != before.epoch


def test_the_guidance_reaches_the_model_under_the_alias_only(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer]
) -> None:
    client = make_client(fake_vllm.url)
    client.set_live(BASE_GENERATION, expected=None)
    for model in (ALIAS, BASE_GENERATION, BASE):
        client.chat(model, MESSAGES, max_tokens=2)
    under_alias, *raw = [request["messages"] for request in fake_vllm.requests]
    assert under_alias == [{"role": "system", "content": GUIDANCE}, *MESSAGES]
    assert raw == [MESSAGES, MESSAGES]


def test_a_server_is_ready_for_traffic_without_a_token_while_something_is_live(server: Server) -> None:
    server.client.set_live(BASE_GENERATION, expected=None)
    answer = httpx.get(f"{server.url}/erratad/v1/ready")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "live": BASE_GENERATION})


def test_a_server_on_which_nothing_is_live_is_not_ready_for_traffic(fake_vllm: FakeVllm) -> None:
    assert httpx.get(f"{fake_vllm.url}/erratad/v1/ready").status_code == 503


def test_before_the_first_flip_the_alias_is_unavailable(
    fake_vllm: FakeVllm, make_client: Callable[..., VllmServer]
) -> None:
    with pytest.raises(EndpointError, match="no generation is live") as caught:
        make_client(fake_vllm.url).chat(ALIAS, MESSAGES, max_tokens=2)
    assert (caught.value.status, caught.value.transient) == (503, True)


# --- exchanges ---


def _ask(server: Server, **options: Any) -> tuple[str, str]:
    """A user's request under the alias. Returns the completion's id and the answer."""
    body = {"model": ALIAS, "messages": MESSAGES, "max_tokens": 8, "temperature": 0, **options}
    with server.http() as http:
        if not body.get("stream"):
            answer = http.post("/v1/chat/completions", json=body).json()
            return answer["id"], answer["choices"][0]["message"]["content"]
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            chunks = _streamed(response.iter_lines())
    return chunks[0]["id"], "".join(choice["delta"].get("content") or "" for one in chunks for choice in one["choices"])


def _match(server: Server, completion_id: str, answer: str) -> Match | None:
    report = flagged(messages=MESSAGES, response=answer, completion_id=completion_id)
    kept = server.client.exchanges([completion_id]).get(completion_id, [])
    found = verify(report, kept, Preparation())
    return None if found is None else found.match


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_verified_by_its_id_and_another_one_is_contradicted(server: Server, *, stream: bool) -> None:
    name = server.live()
    completion_id, answer = _ask(server, stream=stream)
    assert answer
    assert _match(server, completion_id, answer) is Match.SAME
    assert _match(server, completion_id, f"{answer} Buy our pills!") is Match.OTHER_ANSWER
    assert _match(server, "chatcmpl-unknown", answer) is None
    [kept] = server.client.exchanges([completion_id])[completion_id]
    assert (kept.generation, kept.partial, kept.request) == (name, False, {"messages": MESSAGES})
    server.client.forget_exchange(completion_id)
    assert server.client.exchanges([completion_id]) == {}


def test_a_cancelled_stream_is_kept_as_far_as_it_was_sent(server: Server) -> None:
    server.live()
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=LONG) as response:
        lines = response.iter_lines()
        first = json.loads(next(line for line in lines if line.startswith("data: {"))[6:])
        for _ in range(20):
            next(lines)
    deadline = time.monotonic() + 4
    while not (kept := server.client.exchanges([first["id"]]).get(first["id"])):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert kept[0].partial
    assert kept[0].choices[0].text


def test_exchanges_are_bounded_by_time_and_by_bytes_and_need_the_admin_token(
    server: Server, make_client: Callable[..., VllmServer]
) -> None:
    server.live()
    oldest, _ = _ask(server)
    assert server.client.exchanges([oldest])
    question = [{"role": "user", "content": "x " * 300}]
    ids = [_ask(server, messages=question, max_tokens=1, user="y" * 9, stream=False)[0] for _ in range(3)]
    assert set(server.client.exchanges(ids)) == set(ids)
    with pytest.raises(EndpointError) as refused:
        make_client(server.url, admin_token="wrong").exchanges([oldest])
    assert refused.value.status == 401
    while server.client.exchanges([oldest]):
        ids.append(_ask(server, messages=question, max_tokens=1)[0])
        assert len(ids) < 200
    time.sleep(EXCHANGES.ttl_s)
    assert server.client.exchanges(ids[-100:]) == {}
