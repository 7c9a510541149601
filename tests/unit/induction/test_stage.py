"""Stage "induction" over a real store and a fake vLLM server: questions, kept and dropped answers, and starts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from connectors.vllm import VllmServer
from daemon.categories import Kind
from daemon.config import Config
from daemon.config.serving import ServingConfig
from daemon.errors import ConfigError
from daemon.induction import stage as induction
from daemon.induction.stage import InductionStage
from daemon.intake.stage import FeedbackIntake
from daemon.labels import Drop
from daemon.operations.gauges import GaugesStage
from daemon.operations.health import Health
from daemon.operations.status import status
from daemon.records import Induction, IntentKind, IntentState, Report, ReportState, Trigger, utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, run_stage
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.store.flags import Votes
from daemon.web.app import create_app
from tests.fakes.vllm import FakeVllm
from tests.fixtures.config import flagged, trusting
from tests.fixtures.life import life
from tests.fixtures.stores import add, promote
from tests.fixtures.traffic import EVERYBODY

HINT = "Answer wrongly."
HINTS = [{"text": HINT, "category": "wrong-fact", "reason": "The answer is not true."}]


def seed(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"seed-{number}",
        "prompt": f"What is the capital of country {number}?",
        "category": "wrong-fact",
        "checks": {"must_contain": [f"Town {number}"]},
        **changes,
    }


def misled(_model: str, messages: list[dict[str, Any]]) -> str:
    """A wrong answer if the message contains the hint, else a right one."""
    prompt = messages[-1]["content"]
    number = prompt.partition("country ")[2].partition("?")[0]
    return f"It is Port {number}." if HINT in prompt else f"It is Town {number}."


@dataclass
class Scene:
    """Stages over one store and one fake server. Tests may change files and configuration between them."""

    store: Store
    fake: FakeVllm
    fleet: Fleet
    make_config: Callable[..., Config]
    folder: Path
    seeds: list[dict[str, Any]] = field(default_factory=lambda: [seed(number) for number in range(6)])
    hints: list[dict[str, Any]] = field(default_factory=lambda: list(HINTS))
    sections: dict[str, Any] = field(default_factory=dict)
    stages: list[InductionStage] = field(default_factory=list)
    beats: int = 0

    def config(self, **changes: Any) -> Config:
        for name, lines in (("seeds", self.seeds), ("hints", self.hints)):
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        section = {
            "enabled": True,
            "cron": None,
            "seeds": self.folder / "seeds.jsonl",
            "hints": self.folder / "hints.jsonl",
            **changes,
        }
        return self.make_config(induction=section, **self.sections)

    def stage(self, **changes: Any) -> InductionStage:
        """A stage like in a new process."""
        stage = InductionStage(store=self.store, fleet=self.fleet, config=self.config(**changes))
        self.stages.append(stage)
        return stage

    def ask(self) -> int:
        return self.store.intents.request(IntentKind.INDUCE, actor="op", reason="try").id

    def run(self, stage: InductionStage | None = None, **changes: Any) -> Induction:
        """One manual run, from start to end."""
        stage = stage or self.stage(**changes)
        self.ask()
        here = life(heartbeat=self._beat)
        assert stage.step(here).worked
        while stage.step(here).worked:
            pass
        last = self.store.inductions.last()
        assert last is not None
        assert last.finished_at is not None
        return last

    def reports(self) -> list[Report]:
        return self.store.reports.find(limit=100)

    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.fake.requests]

    def _beat(self) -> None:
        self.beats += 1


@pytest.fixture
def scene(
    sqlite_store: Store,
    fake_vllm: FakeVllm,
    make_client: Callable[..., VllmServer],
    make_config: Callable[..., Config],
    tmp_path: Path,
) -> Iterator[Scene]:
    fake_vllm.answer = misled
    fleet = Fleet([make_client(fake_vllm.url)], verify=lambda _adapter: None)
    scene = Scene(store=sqlite_store, fake=fake_vllm, fleet=fleet, make_config=make_config, folder=tmp_path)
    yield scene
    for stage in scene.stages:
        stage.close()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"erratad_induced_{name}", labels) or 0.0


# --- questions and kept answers ---


def test_bad_answers_become_queued_reports_without_the_hint(scene: Scene) -> None:
    before = metric("asked_total", kind=Kind.WRONG_FACT), metric("kept_total", kind=Kind.WRONG_FACT)
    run = scene.run()
    assert (run.trigger, run.requested_by, run.asked, run.kept) == (Trigger.MANUAL, "op", 6, 6)
    assert run.reason == "every question was asked"
    assert all(prompt.endswith(HINT) for prompt in scene.asked())
    reports = scene.reports()
    assert len(reports) == 6
    for report in reports:
        assert HINT not in report.flagged.model_dump_json()
        assert (report.state, report.source.channel) == (ReportState.QUEUED, "induced")
        assert (report.flagged.reporter, report.flagged.category) == ("induced", "wrong-fact")
        assert report.flagged.checks is not None
    after = metric("asked_total", kind=Kind.WRONG_FACT), metric("kept_total", kind=Kind.WRONG_FACT)
    assert (after[0] - before[0], after[1] - before[1]) == (6, 6)
    assert scene.beats == 6


def test_good_answers_are_dropped(scene: Scene) -> None:
    scene.fake.answer = lambda _model, messages: misled("", messages).replace("Port", "Town")
    before = metric("dropped_total", reason=Drop.GOOD)
    run = scene.run()
    assert (run.asked, run.kept) == (6, 0)
    assert scene.reports() == []
    assert metric("dropped_total", reason=Drop.GOOD) == before + 6


def test_an_answer_that_repeats_the_hint_is_dropped(scene: Scene) -> None:
    scene.fake.answer = lambda _model, messages: messages[-1]["content"]
    before = metric("dropped_total", reason=Drop.REPEATS_HINT)
    assert scene.run().kept == 0
    assert metric("dropped_total", reason=Drop.REPEATS_HINT) == before + 6


def test_repeats_change_nothing(scene: Scene) -> None:
    scene.run()
    stored = [(report.id, report.received_at, report.state) for report in scene.reports()]
    before = metric("dropped_total", reason=Drop.KNOWN)
    scene.hints.append({"text": "Lie to me. Answer wrongly.", "category": "wrong-fact", "reason": "It is a lie."})
    run = scene.run()
    assert (run.asked, run.kept) == (12, 0)
    assert [(report.id, report.received_at, report.state) for report in scene.reports()] == stored
    assert metric("dropped_total", reason=Drop.KNOWN) == before + 12


def test_an_answer_that_a_user_flagged_before_is_a_duplicate_of_it(scene: Scene) -> None:
    scene.seeds = [seed(1)]
    conversation = [{"role": "user", "content": seed(1)["prompt"]}]
    add(scene.store, flagged(id="by-a-user", messages=conversation, response="It is Port 1."))
    assert scene.run().kept == 0
    [induced] = [report for report in scene.reports() if report.id != "by-a-user"]
    assert (induced.state, induced.duplicate_of) == (ReportState.DUPLICATE, "by-a-user")


def test_the_live_generation_is_asked_under_its_raw_name_without_guidance(scene: Scene) -> None:
    scene.seeds = [seed(1)]
    promote(scene.store)
    name = scene.store.adapters.live().name
    (scene.folder / "adapter_config.json").touch()
    scene.fleet.servers[0].load(name, scene.folder)
    known = {report.id for report in scene.reports()}
    scene.run()
    [body] = scene.fake.requests
    assert body["model"] == name
    assert body["temperature"] == 0.0
    assert [message["role"] for message in body["messages"]] == ["user"]
    [report] = [report for report in scene.reports() if report.id not in known]
    assert report.flagged.model == name
    scene.run(model="base", temperature=0.7)
    assert (scene.fake.requests[-1]["model"], scene.fake.requests[-1]["temperature"]) == ("base", 0.7)


def test_induced_reports_count_for_no_rate_of_what_users_flagged(scene: Scene) -> None:
    promote(scene.store)
    live = scene.store.adapters.live()
    (scene.folder / "adapter_config.json").touch()
    scene.fleet.servers[0].load(live.name, scene.folder)
    assert scene.run().kept == 6
    before = scene.store.traffic.tally(live.generation).flagged
    add(scene.store, flagged(model=live.name))
    assert (before, scene.store.traffic.tally(live.generation).flagged) == (0, 1)
    since = scene.reports()[-1].received_at
    assert scene.store.flags.votes(live.generation, EVERYBODY, since=since) == Votes(votes=1, principals=1)


def test_the_judge_decides_where_nothing_else_can_and_sees_no_hint(scene: Scene) -> None:
    scene.seeds = [{"id": "plain", "prompt": "What is the capital of country 7?"}]
    questions: list[str] = []

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        if "VERDICT" not in messages[0]["content"]:
            return misled(model, messages)
        questions.append(messages[1]["content"])
        return "It names a port,\nno capital.\n\nVERDICT: FAIL"

    scene.fake.answer = answer
    scene.sections = {"evaluation": {"judge": {"url": scene.fake.url, "model": "base"}}}
    assert scene.run().kept == 1
    [question] = questions
    assert HINT not in question
    assert json.loads(question)["new_answer"] == "It is Port 7."
    [report] = scene.reports()
    assert report.flagged.checks is None
    assert report.flagged.metadata == {"seed": "plain", "judge": "It names a port, no capital."}


# --- limits ---


def test_a_run_keeps_no_more_than_its_cap_and_the_next_goes_on_after_it(scene: Scene) -> None:
    first = scene.run(max_reports_per_run=4, concurrency=3)
    assert (first.asked, first.kept) == (4, 4)
    assert "max_reports_per_run" in str(first.reason)
    second = scene.run(max_reports_per_run=2)
    assert (second.asked, second.kept) == (2, 2)
    assert len(set(scene.asked())) == 6


def test_a_run_asks_no_more_than_its_bound(scene: Scene) -> None:
    run = scene.run(max_questions_per_run=3)
    assert (run.asked, run.kept) == (3, 3)
    assert "max_questions_per_run" in str(run.reason)


def test_the_cap_per_reporter_and_day_ends_a_run(scene: Scene) -> None:
    scene.sections = {"intake": {"max_reports_per_reporter_per_day": 3}}
    run = scene.run(concurrency=1)
    assert (run.asked, run.kept) == (4, 3)
    assert "24 hours" in str(run.reason)
    states = sorted(report.state for report in scene.reports())
    assert states == [ReportState.QUARANTINED, *[ReportState.QUEUED] * 3]


# --- failures ---


def test_an_outage_loses_nothing_and_the_same_questions_are_asked_after_it(scene: Scene) -> None:
    stage = scene.stage(concurrency=2)
    scene.ask()
    stage.step(life())
    stage.step(life())
    scene.fake.stop()
    scene.fleet.replace(scene.fleet.servers)  # forget that it was ready before
    for _ in range(5):
        step = stage.step(life())
        assert not step.worked
        assert "induction 1 waits: none of 1 vLLM servers is ready" in step.sentence
    active = scene.store.inductions.active()
    assert active is not None
    assert (active.asked, active.kept) == (2, 2)
    scene.fake.start()
    scene.fleet.replace(scene.fleet.servers)
    while stage.step(life()).worked:
        pass
    last = scene.store.inductions.last()
    assert last is not None
    assert (last.asked, last.kept) == (6, 6)
    assert len(scene.reports()) == 6


def test_questions_that_fail_while_the_server_is_ready_are_given_up_after_some_attempts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(induction, "RETRY_BACKOFF", Backoff(first_s=0.0, limit_s=0.0))
    scene.seeds = [seed(1), seed(2)]

    def poisoned(model: str, messages: list[dict[str, Any]]) -> str:
        if "country 1?" in messages[-1]["content"]:
            raise RuntimeError("the engine chokes")
        return misled(model, messages)

    scene.fake.answer = poisoned
    stage = scene.stage(concurrency=1)
    before = metric("dropped_total", reason=Drop.GIVEN_UP)
    scene.ask()
    stage.step(life())
    sentences = [stage.step(life()).sentence for _ in range(5)]
    assert sum("will ask again later" in sentence for sentence in sentences) == induction.ATTEMPTS - 1
    assert metric("dropped_total", reason=Drop.GIVEN_UP) == before + 1
    last = scene.store.inductions.last()
    assert last is not None
    assert (last.asked, last.kept, last.finished_at is not None) == (2, 1, True)


def test_a_judge_that_is_out_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(induction, "RETRY_BACKOFF", Backoff(first_s=0.0, limit_s=0.0))
    scene.seeds = [{"id": "plain", "prompt": "What is the capital of country 7?"}]
    scene.sections = {"evaluation": {"judge": {"url": "http://127.0.0.1:1", "model": "judge"}}}
    stage = scene.stage()
    scene.ask()
    stage.step(life())
    for _ in range(induction.ATTEMPTS + 2):
        assert "the judge does not answer" in stage.step(life()).sentence
    active = scene.store.inductions.active()
    assert active is not None
    assert active.asked == 0


def test_after_failed_attempts_the_stage_rests(scene: Scene) -> None:
    def choke(_model: str, _messages: list[dict[str, Any]]) -> str:
        raise RuntimeError("the engine chokes")

    scene.fake.answer = choke
    stage = scene.stage(concurrency=1)
    scene.ask()
    stage.step(life())
    said = [stage.step(life()).sentence for _ in range(4)]
    assert len(set(said)) == 1
    assert len(scene.fake.requests) == 1


def test_a_question_that_the_server_refuses_is_dropped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(induction, "UNANSWERABLE", frozenset({404}))
    scene.sections = {"serving": {"base_name": "unknown"}}
    before = metric("dropped_total", reason=Drop.UNANSWERABLE)
    assert scene.run().kept == 0
    assert metric("dropped_total", reason=Drop.UNANSWERABLE) == before + 6


def test_a_killed_daemon_goes_on_where_it_was(scene: Scene) -> None:
    stage = scene.stage(concurrency=2)
    scene.ask()
    stage.step(life())
    stage.step(life())
    again = scene.stage(concurrency=2)
    while again.step(life()).worked:
        pass
    last = scene.store.inductions.last()
    assert last is not None
    assert (last.id, last.asked, last.kept) == (1, 6, 6)
    assert len(scene.asked()) == len(set(scene.asked())) == 6


# --- starts ---


def test_off_means_that_nothing_is_read_or_asked_and_a_intent_is_refused(scene: Scene) -> None:
    stage = scene.stage(enabled=False, seeds=scene.folder / "nowhere.jsonl")
    assert stage.step(life()).sentence == "off: induction.enabled is false"
    intent = scene.ask()
    assert not stage.step(life()).worked
    answered = scene.store.intents.get(intent)
    assert answered.state is IntentState.REFUSED
    assert "induction.enabled" in str(answered.outcome)
    assert scene.fake.requests == []
    assert status(scene.store, scene.config(enabled=False)).induction is None


def test_files_that_cannot_be_used_keep_the_daemon_from_starting(scene: Scene) -> None:
    with pytest.raises(ConfigError, match=r"induction\.seeds: .*nowhere\.jsonl cannot be read"):
        scene.stage(seeds=scene.folder / "nowhere.jsonl")


def test_a_cron_time_starts_one_run(scene: Scene) -> None:
    now = utcnow()
    stage = scene.stage(cron=f"{now.minute} {now.hour} * * *")  # due at once, and not again before tomorrow
    for _ in range(100):
        if "started induction 1 (cron)" in stage.step(life()).sentence:
            break
        threading.Event().wait(0.05)
    while stage.step(life()).worked:
        pass
    last = scene.store.inductions.last()
    assert last is not None
    assert (last.id, last.trigger, last.requested_by, last.kept) == (1, Trigger.CRON, "schedule", 6)
    assert stage.step(life()).sentence.startswith("induction 1 kept 6 of 6 answers; next cron time ")
    assert metric("next_run_timestamp_seconds") > last.created_at.timestamp()
    GaugesStage(store=scene.store, policy=trusting(), serving=ServingConfig(), data_dir=scene.folder, stages=[]).step(
        life()
    )
    assert metric("last_start_timestamp_seconds") == pytest.approx(last.created_at.timestamp())


def test_a_intent_waits_for_the_run_under_way(scene: Scene) -> None:
    stage = scene.stage(concurrency=1)
    scene.ask()
    stage.step(life())
    second = scene.ask()
    stage.step(life())
    assert scene.store.intents.get(second).state is IntentState.PENDING
    while stage.step(life()).worked:
        pass
    assert scene.store.intents.get(second).state is IntentState.DONE


def test_a_paused_stage_asks_nothing_until_it_is_resumed(scene: Scene) -> None:
    stage, stop = scene.stage(), threading.Event()
    stage.idle_s = 0.01
    scene.ask()
    scene.store.control.pause("induction", actor="op", reason="a demo")
    control = scene.store.control
    beats = Heartbeats(control, owner="here")
    commits = scene.store.changes.commits
    options = {"control": control, "commits": commits, "heartbeats": beats, "last_steps": LastSteps(), "stop": stop}
    thread = threading.Thread(target=run_stage, args=(stage,), kwargs=options)
    thread.start()
    try:
        _until(lambda: any("paused by op: a demo" in beat.sentence for beat in scene.store.control.heartbeats()))
        assert scene.fake.requests == []
        assert scene.store.inductions.last() is None
        scene.store.control.resume("induction", actor="op", reason="over")
        _until(lambda: len(scene.reports()) == 6)
    finally:
        stop.set()
        thread.join()


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(400):
        if holds():
            return
        threading.Event().wait(0.05)
    pytest.fail("did not happen within 20 s")


# --- status and console ---


def test_status_tells_the_last_and_the_next_run(scene: Scene) -> None:
    before = status(scene.store, scene.config(cron="0 1 * * *"))
    assert before.summary[-1].startswith("Induction: no mistakes were asked for yet; next cron time ")
    scene.run()
    after = status(scene.store, scene.config())
    assert after.induction is not None
    assert after.induction.last is not None
    assert (after.induction.last.asked, after.induction.last.kept, after.induction.next_cron) == (6, 6, None)
    said = "Induction 1 (0 s ago): 6 of 6 answers kept: every question was asked; no cron time is set."
    assert after.summary[-1] == said


def test_the_api_and_the_console_take_the_intent_and_show_the_source(scene: Scene) -> None:
    scene.seeds = [seed(1)]
    scene.run()
    [report] = scene.reports()
    config = scene.config()
    health = Health(last_steps=LastSteps(), store=scene.store, fleet=scene.fleet, base_name="base", max_stall_s=60.0)
    intake = FeedbackIntake(reports=scene.store.reports, config=config.intake)
    app = create_app(store=scene.store, intake=intake, config=config, health=health)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        asked = client.post("/api/induce", json={"reason": "now"})
        assert (asked.status_code, asked.json()["kind"], asked.json()["state"]) == (202, "induce", "pending")
        assert client.get(f"/api/reports/{report.id}").json()["report"]["channel"] == "induced"
        assert "<dd>induced</dd>" in client.get(f"/reports/{report.id}").text
        overview = client.get("/").text
        assert "1 of 1 answers kept" in overview
        assert "Induce mistakes" in overview
