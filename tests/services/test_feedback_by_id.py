"""A backend that knows a completion id and a thumb: a lesson is made of it, and the backend hears of the fix.

Over HTTP with the real OpenAI client and the feedback client, and over Kafka with a real broker.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from connectors.client import Feedback
from connectors.kafka.consumer import OutboundRecord
from daemon.config import Config
from daemon.config.intake import KafkaConfig
from daemon.delivery.events import KafkaSink
from daemon.delivery.stage import DeliveryStage
from daemon.evidence.completions import CompletionsStage
from daemon.intake.stage import FeedbackIntake, IngestStage
from daemon.records import Evidence, ReportState
from daemon.runtime.stage import Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.web.app import create_app
from tests.fakes.vllm import FakeVllm
from tests.fixtures.broker import read, send, step_until
from tests.fixtures.life import life
from tests.fixtures.reflection import ReflectionBench
from tests.fixtures.required import unavailable
from tests.fixtures.servers import API_KEY
from tests.fixtures.stores import mark
from tests.fixtures.web import BASE_URL, Condition

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


def test_over_http(
    completion_id: str, bench: ReflectionBench, config: Config, fake_vllm: FakeVllm, make_client: Callable[..., Any]
) -> None:
    store, health = bench.store, Condition()
    intake = FeedbackIntake(reports=store.reports, config=config.intake, exchanges=config.serving.exchanges.enabled)
    app = create_app(store=store, intake=intake, config=config, health=health)  # type: ignore[arg-type]
    with Feedback(BASE_URL, transport=InProcess(app)) as backend:
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
