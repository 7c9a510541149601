"""Stage "evidence" over a real store and a fake vLLM server: what is asked, what is stored, and what failures do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from connectors.messages import FlaggedResponse
from connectors.vllm import VllmServer
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.evidence import stage as evidence
from daemon.evidence.stage import ATTEMPTS, TRUSTED, EvidenceStage
from daemon.labels import Look
from daemon.privacy.redact import Redactor
from daemon.records import BASE_GENERATION, Evidence, Report, ReportState, Source
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import UNTIL_WRITTEN_S, Step
from daemon.serving.fleet import Fleet
from daemon.store import Store
from tests.fakes.vllm import GUIDANCE, FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.stores import promote, quarantine

WRONG, RIGHT = "The capital of Australia is Sydney.", "The capital of Australia is Canberra."
QUESTION = "What is the capital of Australia?"
CHECKS = {"must_contain": ["Canberra"]}


def report(**changes: Any) -> FlaggedResponse:
    """A report of a wrong answer, with a rule; each has a conversation of its own."""
    number = flagged().id.removeprefix("report-")
    question = changes.pop("question", f"{QUESTION} ({number})")
    values = {"messages": [{"role": "user", "content": question}], "response": WRONG, "checks": CHECKS, **changes}
    return flagged(**values)


@dataclass
class Scene:
    """The stage over one store and one fake server."""

    store: Store
    fake: FakeVllm
    fleet: Fleet
    make_config: Callable[..., Config]
    exchanges: bool = True
    trusted: Callable[[Report], bool] = lambda _report: False
    stages: dict[str, EvidenceStage] = field(default_factory=dict)

    def stage(self, **reproduce: Any) -> EvidenceStage:
        serving = {"guidance": GUIDANCE, "exchanges": {"enabled": self.exchanges}}
        config = self.make_config(trust={"reproduce": reproduce}, serving=serving)
        return EvidenceStage(
            store=self.store,
            fleet=self.fleet,
            config=config.trust,
            serving=config.serving,
            trusted=self.trusted,
            clean=Redactor(config).clean,
        )

    def step(self, **reproduce: Any) -> Step:
        """A step of the same stage in each call with the same configuration."""
        stage = self.stages.setdefault(str(reproduce), self.stage(**reproduce))
        return stage.step(life())

    def queue(self, *messages: FlaggedResponse, principal: str = "chat") -> list[str]:
        pairs = [(message, Source(channel="http", principal=principal)) for message in messages]
        self.store.reports.add(pairs, reporter_cap=1000)
        return [message.id for message in messages]

    def get(self, report_id: str) -> Report:
        return self.store.reports.get(report_id)

    def answers(self, *texts: str) -> None:
        """The server gives these answers in turn."""
        left = list(texts)
        self.fake.answer = lambda _model, _messages: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def scene(sqlite_store: Store, fake_vllm: FakeVllm, make_config: Callable[..., Config]) -> Iterator[Scene]:
    client = VllmServer(fake_vllm.url, admin_token=fake_vllm.settings.admin_token)
    yield Scene(
        store=sqlite_store, fake=fake_vllm, fleet=Fleet([client], verify=lambda _: None), make_config=make_config
    )
    client.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "BACKOFF", Backoff(first_s=0.0, limit_s=0.0))


def looked(result: Look) -> float:
    return REGISTRY.get_sample_value("erratad_evidence_total", {"result": result}) or 0.0


def test_a_mistake_that_comes_back_is_reproduced(scene: Scene) -> None:
    scene.answers(WRONG, RIGHT, "It is Sydney, the largest city of Australia.")
    [report_id] = scene.queue(report(question=QUESTION))
    before = looked(Look.REPRODUCED)
    assert scene.step() == Step(sentence="looked for the evidence of 1 report: 1 reproduced", worked=True)
    found = scene.get(report_id)
    assert (found.evidence, found.evidence_detail) == (Evidence.REPRODUCED, "in 2 of 3 answers of aligned-g000000")
    assert found.evidence_at is not None
    assert looked(Look.REPRODUCED) == before + 1
    assert scene.step() == Step(sentence="no report waits for evidence", rest_s=UNTIL_WRITTEN_S)
    first, *others = scene.fake.requests
    assert [one["temperature"] for one in (first, *others)] == [0.0, 0.7, 0.7]
    assert first["messages"] == [{"role": "system", "content": GUIDANCE}, {"role": "user", "content": QUESTION}]


def test_a_mistake_that_does_not_come_back_stays_claimed_and_is_not_looked_for_again(scene: Scene) -> None:
    scene.answers(RIGHT)
    [report_id] = scene.queue(report())
    assert scene.step(samples=2).sentence == "looked for the evidence of 1 report: 1 not reproduced"
    found = scene.get(report_id)
    assert (found.evidence, found.evidence_detail) == (Evidence.CLAIMED, "not in 2 answers of aligned-g000000")
    assert not scene.step(samples=2).worked
    scene.store.evidence.look_again(report_id, actor="ops", reason="a new generation")
    scene.answers(WRONG)
    scene.step(samples=2)
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_rules_that_the_flagged_answer_meets_do_not_count(scene: Scene) -> None:
    scene.answers(RIGHT)
    [report_id] = scene.queue(report(checks={"must_contain": ["capital"]}))
    scene.step()
    assert scene.get(report_id).evidence is Evidence.CLAIMED
    scene.answers(WRONG)
    [report_id] = scene.queue(report(checks={"must_contain": ["capital"]}))
    scene.step()
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_an_answer_that_the_model_never_gives_is_not_reproduced_by_a_rule_that_nothing_meets(scene: Scene) -> None:
    scene.answers(RIGHT)
    [report_id] = scene.queue(
        report(response="You fool, go and buy our pills!", checks={"must_contain": ["pill-shop"]})
    )
    scene.step()
    assert scene.get(report_id).evidence is Evidence.CLAIMED


def test_thoughts_are_no_part_of_the_answers(scene: Scene) -> None:
    scene.fleet.preparation = Preparation(tags=("<think>", "</think>"))
    scene.answers(WRONG)
    [report_id] = scene.queue(report(response=f"<think>\nIs it Canberra? No.\n</think>\n\n{WRONG}"))
    scene.step()
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_the_previous_generation_is_asked_if_the_report_names_it_and_it_is_loaded(scene: Scene, tmp_path: Path) -> None:
    for number in (1, 2):
        promote(scene.store)
        (tmp_path / "adapter").mkdir(exist_ok=True)
        (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
        scene.fleet.servers[0].load(f"aligned-g00000{number}", tmp_path / "adapter")
    scene.fake.answer = lambda model, _messages: WRONG if model == "aligned-g000001" else RIGHT
    named = {name: scene.queue(report(model=name))[0] for name in ("aligned-g000001", "base", "aligned", "other")}
    while scene.step().worked:
        pass
    found = {name: scene.get(report_id).evidence_detail for name, report_id in named.items()}
    live = "not in 3 answers of aligned-g000002"
    assert found == {
        "aligned-g000001": "in 3 of 3 answers of aligned-g000001",
        "base": live,
        "aligned": live,
        "other": live,
    }
    scene.fleet.servers[0].unload("aligned-g000001")
    [report_id] = scene.queue(report(model="aligned-g000001"))
    scene.step()
    assert scene.get(report_id).evidence_detail == live


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "the flagged answer calls a tool"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "message 1 holds an image",
        ),
    ],
)
def test_what_cannot_be_asked_again_stays_claimed_with_the_reason(
    scene: Scene, changes: dict[str, Any], detail: str
) -> None:
    [report_id] = scene.queue(report(**changes))
    assert scene.step().sentence == "looked for the evidence of 1 report: 1 not asked"
    assert scene.get(report_id).evidence_detail == f"not asked again: {detail}"
    assert scene.fake.requests == []


def test_reports_that_count_elsewhere_or_not_at_all_are_skipped(scene: Scene) -> None:
    scene.answers(WRONG)
    first, twin, held, gone = scene.queue(report(question=QUESTION), report(question=QUESTION), report(), report())
    quarantine(scene.store, held)
    scene.store.reports.erase(gone, actor="ops", reason="asked for")
    while scene.step().worked:
        pass
    found = {one: scene.get(one).evidence_at is not None for one in (first, twin, held, gone)}
    assert found == {first: True, twin: False, held: False, gone: False}
    scene.store.reports.requeue(held, actor="ops", reason="seems fine")
    scene.step()
    assert scene.get(held).evidence is Evidence.REPRODUCED


def test_a_trusted_source_needs_no_evidence(scene: Scene) -> None:
    scene.trusted = lambda report: report.source.principal == "chat"
    [report_id] = scene.queue(report())
    scene.step()
    assert (scene.get(report_id).evidence_detail, scene.fake.requests) == (TRUSTED, [])


def test_nothing_is_asked_where_it_is_switched_off(scene: Scene) -> None:
    scene.exchanges = False
    [report_id] = scene.queue(report())
    assert scene.step(samples=0).sentence == "off: trust.reproduce.samples is 0"
    assert scene.get(report_id).evidence_at is None


def test_a_flood_of_one_principal_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.answers(WRONG)
    scene.queue(*(report() for _ in range(20)), principal="flood")
    [late] = scene.queue(report(), principal="small")
    scene.step(concurrency=2)
    assert scene.get(late).evidence is Evidence.REPRODUCED


# --- exchanges ---


def ask(scene: Scene, question: str, **headers: str) -> str:
    """A user asks under the alias. Returns the completion's id."""
    scene.fleet.servers[0].set_live("aligned-g000000", expected=None)
    body = {"model": "aligned", "messages": [{"role": "user", "content": question}]}
    return str(httpx.post(f"{scene.fake.url}/v1/chat/completions", json=body, headers=headers).json()["id"])


def test_a_report_that_names_its_completion_is_verified_without_asking_again(scene: Scene) -> None:
    scene.answers(WRONG)
    completion_id = ask(scene, QUESTION)
    [report_id] = scene.queue(report(question=QUESTION, completion_id=completion_id))
    assert scene.step().sentence == "looked for the evidence of 1 report: 1 verified"
    found = scene.get(report_id)
    assert (found.evidence, found.evidence_detail) == (Evidence.VERIFIED, "aligned-g000000 gave this answer")
    assert len(scene.fake.requests) == 1


@pytest.mark.parametrize("named", ["chat", "aligned", "aligned-g000007"])
def test_a_verified_report_is_a_flag_of_the_generation_in_the_record_whatever_model_it_names(
    scene: Scene, named: str
) -> None:
    scene.answers(WRONG)
    completion_id = ask(scene, QUESTION)
    [report_id] = scene.queue(report(question=QUESTION, completion_id=completion_id, model=named))
    assert scene.store.traffic.tally(BASE_GENERATION).flagged == 0
    scene.step()
    assert scene.store.traffic.tally(BASE_GENERATION).flagged == 1
    assert scene.get(report_id).flagged.model == named  # the message stays as it was sent


def test_a_report_of_another_answer_under_this_id_is_contradicted_even_if_its_source_is_trusted(scene: Scene) -> None:
    scene.answers(RIGHT)
    scene.trusted = lambda _report: True
    completion_id = ask(scene, QUESTION)
    [report_id] = scene.queue(report(question=QUESTION, completion_id=completion_id))
    scene.step()
    found = scene.get(report_id)
    assert (found.evidence, found.evidence_detail) == (Evidence.CONTRADICTED, "the exchange holds another answer")
    [honest] = scene.queue(report(question=QUESTION), principal="another")
    assert scene.get(honest).state is ReportState.QUEUED, "a contradicted report stands for nobody's answer"


@pytest.mark.parametrize("kept", [True, False])
def test_an_unknown_completion_is_reproduced(scene: Scene, *, kept: bool) -> None:
    scene.answers(WRONG)
    scene.exchanges = kept
    completion_id = "chatcmpl-unknown" if kept else ask(scene, QUESTION)
    [report_id] = scene.queue(report(question=QUESTION, completion_id=completion_id))
    scene.step()
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_without_asking_again_only_exchanges_count(scene: Scene) -> None:
    scene.answers(WRONG)
    completion_id = ask(scene, QUESTION)
    known, other = scene.queue(report(question=QUESTION, completion_id=completion_id), report())
    scene.step(samples=0)
    assert scene.get(known).evidence is Evidence.VERIFIED
    assert scene.get(other).evidence_detail == "not asked again: trust.reproduce.samples is 0"


# --- failures ---


def test_a_conversation_that_the_server_refuses_stays_claimed_and_its_words_are_not_stored(scene: Scene) -> None:
    scene.answers(WRONG)
    scene.fake.max_chars = 100
    long, short = scene.queue(report(question="x" * 200), report())
    assert scene.step().sentence == "looked for the evidence of 2 reports: 1 reproduced, 1 not asked"
    assert scene.get(long).evidence_detail == "aligned-g000000 refused the conversation (HTTP 400)"
    assert scene.get(short).evidence is Evidence.REPRODUCED


def test_an_outage_burns_no_attempts(scene: Scene) -> None:
    scene.answers(WRONG)
    [report_id] = scene.queue(report())
    scene.fake.stop()
    for _ in range(3 * ATTEMPTS):
        step = scene.step()
        assert step.sentence.startswith("waiting for the servers: ")
        assert not step.worked
    assert scene.get(report_id).evidence_at is None
    scene.fake.start()
    scene.fleet.replace(scene.fleet.servers)
    scene.step()
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_a_report_that_fails_alone_is_given_up_and_the_others_go_on(scene: Scene) -> None:
    def answer(_model: str, messages: list[dict[str, Any]]) -> str:
        if "POISON" in messages[-1]["content"]:
            raise RuntimeError("boom")
        return WRONG

    scene.fake.answer = answer
    bad, *good = scene.queue(report(question="POISON"), report(), report())
    for _ in range(4 * ATTEMPTS):
        scene.step()
    assert scene.get(bad).evidence_detail == f"asked {ATTEMPTS} times without an answer"
    assert {scene.get(one).evidence for one in good} == {Evidence.REPRODUCED}


def test_a_report_that_takes_the_servers_down_each_time_is_given_up(scene: Scene) -> None:
    """It looks like an outage every time, so it is bounded separately."""
    status = {"down": False}

    def answer(_model: str, messages: list[dict[str, Any]]) -> str:
        status["down"] = "POISON" in messages[-1]["content"] or (status["down"] and "OK" in messages[-1]["content"])
        if status["down"]:
            raise RuntimeError("crashed")
        return WRONG

    scene.fake.answer = answer
    bad, good = scene.queue(report(question="POISON"), report())
    for _ in range(30):
        scene.step()
        status["down"] = False
    assert scene.get(bad).evidence_detail == f"asked {ATTEMPTS} times without an answer"
    assert scene.get(good).evidence is Evidence.REPRODUCED


def test_a_stop_leaves_the_report_for_the_next_start(scene: Scene) -> None:
    stop = threading.Event()

    def answer(_model: str, _messages: list[dict[str, Any]]) -> str:
        stop.set()
        return WRONG

    scene.fake.answer = answer
    [report_id] = scene.queue(report())
    step = scene.stage().step(life(stop))
    assert (step.worked, scene.get(report_id).evidence_at) == (False, None)
    scene.step()
    assert scene.get(report_id).evidence is Evidence.REPRODUCED


def test_evidence_does_not_end_the_lease_of_an_analysis(scene: Scene) -> None:
    scene.answers(WRONG)
    [report_id] = scene.queue(report())
    [claim] = scene.store.reports.claim(owner="reflector", limit=1, lease_s=60)
    scene.step()
    scene.store.reports.retry(claim, at=claim.report.updated_at, reason="again")
    assert (scene.get(report_id).state, scene.get(report_id).evidence) == (ReportState.QUEUED, Evidence.REPRODUCED)


def test_a_report_erased_while_it_is_asked_keeps_nothing(scene: Scene) -> None:
    ids: list[str] = []

    def answer(_model: str, _messages: list[dict[str, Any]]) -> str:
        if scene.get(ids[0]).state is not ReportState.ERASED:
            scene.store.reports.erase(ids[0], actor="ops", reason="asked for")
        return WRONG

    scene.fake.answer = answer
    ids += scene.queue(report())
    scene.step()
    assert (scene.get(ids[0]).evidence, scene.get(ids[0]).evidence_detail) == (Evidence.CLAIMED, None)
