"""A backend that knows a completion id and a thumb: a lesson is made of it, and the backend hears of the fix.

Over HTTP with the real OpenAI client and the feedback client, over Kafka with a real broker, through a real LiteLLM
proxy, and through a real vLLM router.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from connectors.client import Feedback, FeedbackError
from connectors.kafka.consumer import OutboundRecord
from connectors.vllm import VllmServer
from connectors.vllm_plugin.exchanges import ExchangeSettings
from daemon.config import Config
from daemon.config.intake import KafkaConfig
from daemon.config.web import Role
from daemon.delivery.events import KafkaSink
from daemon.delivery.stage import DeliveryStage
from daemon.evidence.completions import CompletionsStage
from daemon.evidence.stage import EvidenceStage
from daemon.intake.stage import FeedbackIntake, IngestStage
from daemon.records import BASE_GENERATION, Evidence, ReportState
from daemon.runtime.stage import Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.web.app import create_app
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.api import serving
from tests.fixtures.broker import read, send, step_until
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.litellm import MASTER_KEY, RECORDED, SECOND_KEY, USERS_KEY, Proxy, a_call, litellm_proxy
from tests.fixtures.ports import free_port
from tests.fixtures.receiver import Receiver
from tests.fixtures.reflection import ReflectionBench
from tests.fixtures.required import unavailable
from tests.fixtures.router import vllm_router
from tests.fixtures.servers import API_KEY
from tests.fixtures.stores import mark
from tests.fixtures.web import BASE_URL, TOKENS, Condition

try:
    from openai import OpenAI
except ImportError:  # it comes with vLLM
    unavailable("the OpenAI client is not installed; run `make setup`")

QUESTION, WRONG = "What is the capital of Australia?", "The capital of Australia is Sydney."


@pytest.fixture
def completion_id(fake_vllm: FakeVllm, make_client: Callable[..., Any]) -> str:
    """A user asks under the alias, and gets a bad answer."""
    fake_vllm.answer = lambda _model, _messages: WRONG
    make_client(fake_vllm.url).set_live("aligned-g000000", expected=None)
    with OpenAI(base_url=f"{fake_vllm.url}/v1", api_key=API_KEY, max_retries=0) as chat:
        messages: Any = [{"role": "user", "content": QUESTION}]
        return chat.chat.completions.create(model="aligned", messages=messages).id


@pytest.fixture
def bench(make_reflection: Callable[..., ReflectionBench]) -> ReflectionBench:
    return make_reflection()


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:
    return make_config(serving={"exchanges": {"enabled": True}})


def look(store: Store, config: Config, server: Any) -> Step:
    """A step of the stage `completions`."""
    stage = CompletionsStage(
        store=store,
        fleet=Fleet([server], verify=lambda _: None),
        intake=config.intake,
        serving=config.serving,
        limits=config.sources.limits,
    )
    return stage.step(life())


def becomes_a_lesson(report_id: str, bench: ReflectionBench) -> None:
    report = bench.store.reports.get(report_id)
    assert ([one.text for one in report.messages], report.flagged.response) == ([QUESTION], WRONG)
    assert (report.evidence, report.flagged.model) == (Evidence.VERIFIED, "aligned-g000000")
    for _ in range(3):
        bench.step()
    assert bench.state(report_id) is ReportState.LESSON


class InProcess(httpx.BaseTransport):
    """Requests to the application in this process."""

    def __init__(self, app: Any) -> None:
        self._inside = TestClient(app, base_url=BASE_URL)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers = dict(request.headers)
        answer = self._inside.request(request.method, str(request.url), content=request.read(), headers=headers)
        return httpx.Response(answer.status_code, headers=dict(answer.headers), content=answer.content)


def feedback(store: Store, config: Config) -> Feedback:
    health = Condition()
    intake = FeedbackIntake(reports=store.reports, config=config.intake, exchanges=config.serving.exchanges.enabled)
    app = create_app(store=store, intake=intake, config=config, health=health)  # type: ignore[arg-type]
    return Feedback(BASE_URL, transport=InProcess(app))


def test_over_http(
    completion_id: str, bench: ReflectionBench, config: Config, fake_vllm: FakeVllm, make_client: Callable[..., Any]
) -> None:
    store = bench.store
    with feedback(store, config) as backend:
        sent = backend.submit(completion_id, rating="down", comment="Sydney is not the capital.")
        assert sent.outcome == "waiting"
        assert look(store, config, make_client(fake_vllm.url)).sentence.endswith("1 stored")
        becomes_a_lesson(sent.id, bench)
        assert not backend.state(sent.id).ended
        mark(store, [sent.id], ReportState.RESOLVED, generation=7)
        assert backend.wait(sent.id, timeout_s=1).fixed_in_generation == 7


@pytest.fixture
def ingest(bench: ReflectionBench, config: Config, kafka: KafkaConfig) -> Iterator[IngestStage]:
    exchanges = config.serving.exchanges.enabled
    stage = IngestStage.connect(store=bench.store, config=config.intake, kafka=kafka, exchanges=exchanges)
    with closing(stage):
        yield stage


def test_over_kafka(
    completion_id: str,
    bench: ReflectionBench,
    config: Config,
    fake_vllm: FakeVllm,
    make_client: Callable[..., Any],
    kafka: KafkaConfig,
    ingest: IngestStage,
) -> None:
    store = bench.store
    thumb = {"id": "thumb-1", "completion_id": completion_id, "rating": "down", "comment": "Sydney is not the capital."}
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"thumb-1", value=json.dumps(thumb).encode()))
    step_until(ingest, lambda step: step.sentence.startswith("took in"))
    look(store, config, make_client(fake_vllm.url))
    becomes_a_lesson("thumb-1", bench)
    mark(store, ["thumb-1"], ReportState.RESOLVED, generation=7)
    with closing(DeliveryStage(store=store, sink=KafkaSink.connect(kafka))) as events:
        step_until(events, lambda step: not step.worked)
    heard = [json.loads(record.value) for record in read(kafka, kafka.events_topic)]
    fixed = [one for one in heard if one["type"] == "report.resolved"]
    assert [(one["subject"], one["data"]["generation"]) for one in fixed] == [("thumb-1", 7)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """A vLLM server, and the OpenAI client of a backend that knows only the proxy in front of it.

    The proxy looks for erratad at `erratad_port`.
    """

    fake: FakeVllm
    server: VllmServer
    chat: OpenAI
    proxy: Proxy
    erratad_port: int

    def ask(self, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": QUESTION}]
        return self.chat.chat.completions.with_raw_response.create(model=self.proxy.group, messages=messages, **more)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    port = free_port()
    with (
        FakeVllm(answer=lambda _model, _messages: WRONG, exchanges=ExchangeSettings(ttl_s=600.0)) as fake,
        litellm_proxy(fake.url, f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("litellm")) as proxy,
        closing(VllmServer(fake.url, api_key=API_KEY, admin_token=ADMIN_TOKEN, timeout_s=60)) as server,
        OpenAI(base_url=f"{proxy.url}/v1", api_key=MASTER_KEY, max_retries=0) as chat,
    ):
        server.set_live("aligned-g000000", expected=None)
        yield Proxied(fake=fake, server=server, chat=chat, proxy=proxy, erratad_port=port)


@pytest.fixture(scope="module")
def routed(proxied: Proxied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM router in front of the same server."""
    with vllm_router([proxied.fake.url], tmp_path_factory.mktemp("router")) as url:
        yield url


@pytest.mark.parametrize("stream", [False, True])
def test_through_litellm_the_generation_is_found_by_the_completions_id(
    proxied: Proxied, bench: ReflectionBench, config: Config, *, stream: bool
) -> None:
    answer = proxied.ask(stream=stream).parse()
    first, *_ = list(answer) if stream else [answer]
    assert first.model == proxied.proxy.group
    with feedback(bench.store, config) as backend:
        sent = backend.submit(first.id, rating="down")
        assert look(bench.store, config, proxied.server).sentence.endswith("1 stored")
    becomes_a_lesson(sent.id, bench)


def test_a_whole_report_that_names_litellms_model_is_a_flag_of_the_generation_that_answered(
    proxied: Proxied, sqlite_store: Store, config: Config
) -> None:
    answer = proxied.ask().parse()
    whole = flagged(
        model=answer.model,
        completion_id=answer.id,
        messages=[{"role": "user", "content": QUESTION}],
        response=answer.choices[0].message.content,
    )
    with feedback(sqlite_store, config) as backend:
        sent = backend.send(whole.model_dump(mode="json", exclude_none=True))
    assert sqlite_store.traffic.tally(BASE_GENERATION).flagged == 0
    stage = EvidenceStage(
        store=sqlite_store,
        fleet=Fleet([proxied.server], verify=lambda _: None),
        config=config.trust,
        serving=config.serving,
        trusted=lambda _: False,
        clean=lambda it: it,
    )
    assert stage.step(life()).sentence.endswith("1 verified")
    assert sqlite_store.reports.get(sent.id).evidence is Evidence.VERIFIED
    assert sqlite_store.traffic.tally(BASE_GENERATION).flagged == 1


def test_litellm_tells_the_generation_and_passes_the_conversations_header_on(proxied: Proxied) -> None:
    raw = proxied.ask(extra_headers={"x-erratad-conversation": "conversation-7"})
    assert raw.headers["llm_provider-x-erratad-generation"] == str(BASE_GENERATION)
    assert proxied.fake.headers[-1]["x-erratad-conversation"] == "conversation-7"


def test_feedback_passes_through_litellm_under_the_name_of_its_keys_user(
    proxied: Proxied,
    bench: ReflectionBench,
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REPORTER_TOKEN", TOKENS[Role.REPORTER])
    reporter = {"name": "litellm", "role": Role.REPORTER, "token_env": "REPORTER_TOKEN"}
    config = make_config(serving={"exchanges": {"enabled": True}}, http={"tokens": [reporter]})
    url, sent = proxied.proxy.url, []
    with serving(bench.store, config, port=proxied.erratad_port):
        for key in (MASTER_KEY, USERS_KEY, SECOND_KEY):
            with Feedback(url, token=key) as backend:
                answer = proxied.ask(user=key).parse()
                sent.append(backend.submit(answer.id, rating="down", reporter="user-4711", tenant="another").id)
                assert backend.state(sent[-1]).state == "waiting"
                with pytest.raises(FeedbackError, match="says nothing") as refused:
                    backend.submit(answer.id)
                assert (refused.value.status, refused.value.reason) == (422, "schema_violation")
        thumb = {"completion_id": answer.id, "rating": "down"}
        assert httpx.post(f"{url}/v1/feedback", json=thumb).status_code == 401
    assert look(bench.store, config, proxied.server).worked
    reports = [bench.store.reports.get(one) for one in sent]
    assert [(one.source.principal, one.flagged.reporter, one.flagged.tenant) for one in reports] == [
        ("litellm", "default_user_id/user-4711", "another"),
        ("litellm", "ann@example.com/user-4711", "support"),
        ("litellm", "ann@example.com/user-4711", "another"),
    ]
    becomes_a_lesson(sent[0], bench)


def test_todays_litellm_calls_the_callback_and_sends_on_as_recorded(proxied: Proxied) -> None:
    with closing(Receiver(proxied.erratad_port)) as erratad:
        assert a_call(proxied.proxy, erratad) == json.loads(RECORDED.read_text())


@pytest.mark.parametrize("stream", [False, True])
def test_through_a_vllm_router_the_generation_is_found_by_the_completions_id(
    proxied: Proxied, routed: str, bench: ReflectionBench, config: Config, *, stream: bool
) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    with OpenAI(base_url=f"{routed}/v1", api_key=API_KEY, max_retries=0) as chat:
        answer = chat.with_options(
            default_headers={"x-erratad-conversation": "conversation-8"}
        ).chat.completions.create(model="aligned", messages=messages, stream=stream)
        first, *_ = list(answer) if stream else [answer]
    assert first.model == "aligned-g000000"
    assert proxied.fake.headers[-1]["x-erratad-conversation"] == "conversation-8"
    with feedback(bench.store, config) as backend:
        sent = backend.submit(first.id, rating="down")
    assert look(bench.store, config, proxied.server).sentence.endswith("1 stored")
    becomes_a_lesson(sent.id, bench)
