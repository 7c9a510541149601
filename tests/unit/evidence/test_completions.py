"""Stage "completions" over a real store and a fake vLLM server: short forms become reports, or say why not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from connectors.messages import FlaggedResponse, decode
from connectors.vllm import VllmServer
from connectors.vllm_wire import Exchange, Said
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.config.sources import Limits
from daemon.errors import NotFoundError
from daemon.evidence import completions
from daemon.evidence.completions import CompletionsStage
from daemon.evidence.recorded import LostError, completed
from daemon.labels import Lost, SignalState
from daemon.records import Evidence, ReportState, Source, utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import UNTIL_WRITTEN_S, Step
from daemon.serving.fleet import Fleet
from daemon.store import Added, Signal, Store, open_store
from tests.fakes.vllm import FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.stores import force, url_of

QUESTION, WRONG = "What is the capital of Australia?", "The capital of Australia is Sydney."
ROOMY = Limits(reports=1000, size_bytes=10**9, reports_per_reporter=1000)


def short(**values: Any) -> FlaggedResponse:
    return decode(json.dumps({"completion_id": "chatcmpl-x", "rating": "down", **values}).encode())


@dataclass
class Scene:
    store: Store
    fake: FakeVllm
    fleet: Fleet
    make_config: Callable[..., Config]
    limits: Limits = ROOMY

    def step(self, **exchanges: Any) -> Step:
        config = self.make_config(serving={"exchanges": {"enabled": True, **exchanges}})
        stage = CompletionsStage(
            store=self.store,
            fleet=self.fleet,
            intake=config.intake,
            serving=config.serving,
            limits=lambda _principal: self.limits,
        )
        return stage.step(life())

    def send(self, principal: str = "chat", **values: Any) -> str:
        message = short(**values)
        source = Source(channel="http", principal=principal)
        assert self.store.reports.add([(message, source)]) == [Added.WAITING]
        return self.store.signals.sent(principal, message.id).id

    def ask(self, question: str = QUESTION, **body: Any) -> str:
        """A user asks under the alias. Returns the completion's id."""
        self.fleet.servers[0].set_live("aligned-g000000", expected=None)
        asked = {"model": "aligned", "messages": [{"role": "user", "content": question}], **body}
        return str(httpx.post(f"{self.fake.url}/v1/chat/completions", json=asked).json()["id"])

    def lost(self, signal_id: str) -> Lost | None:
        return self.store.signals.get(signal_id).lost


@pytest.fixture
def scene(sqlite_store: Store, fake_vllm: FakeVllm, make_config: Callable[..., Config]) -> Iterator[Scene]:
    fake_vllm.answer = lambda _model, _messages: WRONG
    client = VllmServer(fake_vllm.url, admin_token=fake_vllm.settings.admin_token)
    fleet = Fleet([client], verify=lambda _: None)
    yield Scene(store=sqlite_store, fake=fake_vllm, fleet=fleet, make_config=make_config)
    client.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "BACKOFF", Backoff(first_s=0.0, limit_s=0.0))


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("erratad_completions_total", {"result": result}) or 0.0


def test_a_thumb_down_becomes_a_verified_report_of_the_recorded_answer(scene: Scene) -> None:
    before = counted("stored")
    signal_id = scene.send(completion_id=scene.ask(), comment="It named Sydney.", reporter="user-1", tenant="shop")
    said = "looked for the completions of 1 messages: 1 stored"
    assert scene.step() == Step(sentence=said, worked=True)
    report = scene.store.reports.get(signal_id)
    assert [message.text for message in report.messages] == [QUESTION]
    assert (report.flagged.response, report.flagged.model) == (WRONG, "aligned-g000000")
    assert (report.flagged.reason, report.flagged.reporter, report.flagged.tenant) == (
        "It named Sydney.",
        "user-1",
        "shop",
    )
    assert (report.state, report.evidence) == (ReportState.QUEUED, Evidence.VERIFIED)
    assert report.evidence_detail == "aligned-g000000 gave this answer"
    assert (utcnow() - report.flagged.occurred_at) < timedelta(minutes=5)
    assert report.source.principal == "chat"
    with pytest.raises(NotFoundError):
        scene.store.signals.get(signal_id)
    assert counted("stored") == before + 1
    assert scene.step() == Step(sentence="no feedback waits for its completion", rest_s=UNTIL_WRITTEN_S)


def test_the_same_message_again_is_known_before_and_after_its_completion_is_found(scene: Scene) -> None:
    completion_id = scene.ask()
    message, other = short(id="mine", completion_id=completion_id), short(id="mine", completion_id="another")
    source = Source(channel="http", principal="chat")
    assert scene.store.reports.add([(message, source)]) == [Added.WAITING]
    for _ in range(2):
        assert scene.store.reports.add([(message, source)]) == [Added.REDELIVERED]
        assert scene.store.reports.add([(other, source)]) == [Added.CONFLICT]
        scene.step()
    assert len(scene.store.reports.find()) == 1


def test_two_thumbs_for_one_answer_are_duplicates(scene: Scene) -> None:
    completion_id = scene.ask()
    first, second = (scene.send(completion_id=completion_id, reporter=one) for one in "ab")
    scene.step()
    states = {one: scene.store.reports.get(one).state for one in (first, second)}
    assert states == {first: ReportState.QUEUED, second: ReportState.DUPLICATE}


def test_a_thumb_up_is_kept_and_makes_no_report(scene: Scene) -> None:
    signal_id = scene.send(completion_id=scene.ask(), rating="up")
    scene.step()
    kept = scene.store.signals.get(signal_id)
    assert (kept.state, kept.flagged.response) == (SignalState.KEPT, WRONG)
    assert scene.store.reports.find() == []
    whole = flagged(rating="up")
    assert scene.store.reports.add([(whole, Source(channel="http", principal="chat"))]) == [Added.KEPT]
    assert scene.store.signals.counts()[SignalState.KEPT] == 2


def test_a_completion_that_comes_late_is_found(scene: Scene) -> None:
    signal_id = scene.send(completion_id="chatcmpl-late")
    assert scene.step() == Step(sentence="looked for the completions of 1 messages: 1 waiting")
    body = {"model": "aligned", "messages": [{"role": "user", "content": QUESTION}]}
    scene.fleet.servers[0].set_live("aligned-g000000", expected=None)
    httpx.post(f"{scene.fake.url}/v1/chat/completions", json=body, headers={"X-Request-Id": "late"})
    scene.step()
    assert scene.store.reports.get(signal_id).flagged.response == WRONG


def test_a_server_that_is_away_costs_nothing_but_time(scene: Scene) -> None:
    completion_id = scene.ask()
    away = VllmServer("http://127.0.0.1:1", admin_token="x")
    here, scene.fleet = scene.fleet, Fleet([away], verify=lambda _: None)
    signal_id = scene.send(completion_id=completion_id)
    scene.step()
    assert scene.store.signals.get(signal_id).state is SignalState.WAITING
    scene.fleet = here
    scene.step()
    assert scene.store.reports.get(signal_id).flagged.response == WRONG
    away.close()


def test_a_completion_that_no_server_can_remember_any_more_is_given_up(scene: Scene) -> None:
    signal_id = scene.send(completion_id="chatcmpl-gone")
    force(scene.store, "UPDATE signals SET received_at = :at", at=str(utcnow() - timedelta(seconds=61)))
    scene.step(ttl_s=60)
    given_up = scene.store.signals.get(signal_id)
    assert (given_up.state, given_up.lost) == (SignalState.GIVEN_UP, Lost.NO_RECORD)
    assert scene.step(ttl_s=60) == Step(sentence="no feedback waits for its completion", rest_s=UNTIL_WRITTEN_S)


def test_new_messages_do_not_wait_behind_many_unknown_ones(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_IDS", 2)
    for number in range(4):
        scene.send(completion_id=f"unknown-{number}", principal="flood")
    for _ in range(3):
        scene.step()
    signal_id = scene.send(completion_id=scene.ask())
    scene.step()
    assert scene.store.reports.get(signal_id).evidence is Evidence.VERIFIED


def test_personal_data_of_the_exchange_is_redacted_as_at_intake(
    scene: Scene, make_config: Callable[..., Config]
) -> None:
    redacting = make_config(store={"url": url_of(scene.store)})
    scene.store.close()
    scene.store = open_store(redacting)
    scene.fake.answer = lambda _model, _messages: "Write to ada@example.org."
    signal_id = scene.send(
        completion_id=scene.ask("I am bob@example.org. Whom do I ask?"), comment="not carol@example.org"
    )
    waiting = scene.store.signals.get(signal_id)
    assert waiting.flagged.reason == "not <EMAIL_1>"
    scene.step()
    stored = scene.store.reports.get(signal_id).flagged.encode()
    assert b"example.org" not in stored
    assert stored.count(b"EMAIL_") == 4, "in the question, the answer, and the comment with its copy in the metadata"
    assert scene.store.reports.get(signal_id).evidence is Evidence.VERIFIED


def test_the_bytes_of_the_exchange_count_and_the_message_counts_once(scene: Scene) -> None:
    scene.limits = Limits(reports=1, size_bytes=10**9, reports_per_reporter=1)
    signal_id = scene.send(completion_id=scene.ask())
    scene.step()
    assert scene.store.reports.get(signal_id).state is ReportState.QUEUED
    scene.limits = Limits(reports=1000, size_bytes=1500, reports_per_reporter=10)
    late = scene.send(completion_id=scene.ask("Why? " * 300))
    scene.step()
    assert scene.store.signals.get(late).state is SignalState.WAITING, "its sender has no room yet"


def test_of_several_choices_one_must_be_named(scene: Scene) -> None:
    request = {"messages": [{"role": "user", "content": QUESTION}]}
    two = Exchange(generation="g", request=request, choices=(Said(text="one"), Said(text="two")))
    assert complete(two, choice=1).response == "two"
    assert (lost_of(two), lost_of(two, choice=2)) == (Lost.CHOICE, Lost.CHOICE)


def test_an_answer_with_tool_calls_and_thoughts_is_taken_as_it_is() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    found = complete(exchange(choices=(Said(text="A", reasoning="thinks", tool_calls=(call,)),)))
    assert (found.response, found.tool_calls) == ("A", [call])


@pytest.mark.parametrize(
    ("changes", "values", "lost"),
    [
        ({"request": {"input": "And?", "previous_response_id": "resp-1"}}, {}, Lost.CONTINUES),
        ({"request": {"messages": [{"role": "assistant", "content": "I"}]}}, {}, Lost.REFUSED),
        ({"request": {"messages": 5}}, {}, Lost.REFUSED),
        ({"request": {"messages": [{"role": "user", "content": "x" * 10_000}]}}, {}, Lost.REFUSED),
        ({"request": {}}, {}, Lost.REFUSED),
        ({"partial": True}, {"rating": "up"}, Lost.NOT_OWN),
        ({"forced": ("logit_bias",)}, {"rating": "up"}, Lost.NOT_OWN),
        ({"choices": ()}, {}, Lost.CHOICE),
    ],
)
def test_a_record_that_is_no_report_is_given_up(changes: dict[str, Any], values: dict[str, Any], lost: Lost) -> None:
    assert lost_of(exchange(**changes), **values) is lost


def test_two_different_answers_under_one_id_are_a_record_of_neither() -> None:
    with pytest.raises(LostError) as info:
        completed(short(), [exchange(), exchange(generation="h")], **GIVEN)
    assert info.value.lost is Lost.SEVERAL
    assert completed(short(), [exchange(), exchange()], **GIVEN).model == "g"


def test_an_answer_that_was_cut_off_or_forced_may_be_flagged_and_a_forced_one_is_not_verified(scene: Scene) -> None:
    assert complete(exchange(partial=True)).response == "A"
    signal_id = scene.send(completion_id=scene.ask(logit_bias={"5": 100}))
    scene.step()
    assert scene.store.reports.get(signal_id).evidence is Evidence.CLAIMED


def test_a_given_up_message_tells_why_and_is_counted(scene: Scene) -> None:
    before = counted("choice")
    signal_id = scene.send(completion_id=scene.ask(), choice=3)
    scene.step()
    assert (scene.lost(signal_id), counted("choice")) == (Lost.CHOICE, before + 1)


GIVEN: dict[str, Any] = {"preparation": Preparation(), "received_at": utcnow(), "max_bytes": 5000}


def exchange(**changes: Any) -> Exchange:
    values: dict[str, Any] = {
        "generation": "g",
        "request": {"messages": [{"role": "user", "content": QUESTION}]},
        "choices": (Said(text="A"),),
    }
    return Exchange(**{**values, **changes})


def complete(one: Exchange, **values: Any) -> FlaggedResponse:
    return completed(short(**values), [one], **GIVEN)


def lost_of(one: Exchange, **values: Any) -> Lost:
    with pytest.raises(LostError) as info:
        complete(one, **values)
    return info.value.lost


def test_what_was_said_first_is_not_changed_by_the_record(scene: Scene) -> None:
    signal_id = scene.send(completion_id=scene.ask(), edit="Canberra.", occurred_at="2026-01-31T12:00:00Z")
    waiting: Signal = scene.store.signals.get(signal_id)
    scene.step()
    report = scene.store.reports.get(signal_id).flagged
    assert (report.correction, report.occurred_at) == ("Canberra.", waiting.flagged.occurred_at)
