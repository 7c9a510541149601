"""One backend with 20 reporters and no log of exchanges: what it needs to learn within a night."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm import VllmServer
from daemon.artifacts.run_folder import TRAIN_FILE
from daemon.chat.preparation import Preparation
from daemon.config import Config
from daemon.evidence.stage import EvidenceStage
from daemon.privacy.redact import Redactor
from daemon.records import ReportState, Run, RunState, Source
from daemon.reflection.stage import ReflectionStage
from daemon.serving.fleet import Fleet
from daemon.store import Store
from daemon.trust.policy import Policy
from daemon.trust.standing import Standings
from tests.fakes.vllm import FakeVllm
from tests.fixtures.life import life
from tests.fixtures.training import SUBJECTS, OrdinaryAnswers, dataset_stage, lines_of, mistake, prepared

BACKEND = "chat-backend"
TOKENS = {"tokens": [{"name": BACKEND, "role": "reporter", "token_env": "ERRATAD_CHAT_TOKEN"}]}
VOUCHED = {"sources": [{"name": BACKEND, "token": BACKEND, "trusted": True}]}
RIGHT = "They exist, and there are many of them."


@dataclass
class Night:
    """What a night does to the reports of a day: evidence, analysis, and the dataset of a run."""

    store: Store
    fake: FakeVllm
    folder: Path
    make_config: Callable[..., Config]

    def report(self) -> list[str]:
        """Each of 20 people flags one answer and says what is right."""
        batch = [
            (mistake(subject, reporter=f"user-{number}", correction=RIGHT), Source(channel="http", principal=BACKEND))
            for number, subject in enumerate(SUBJECTS)
        ]
        self.store.reports.add(batch, reporter_cap=200)
        return [message.id for message, _ in batch]

    def pass_by(self, *, answer: str | None = None, **sections: Any) -> Run:
        """`answer`: what the model says now; None: the same mistakes as before."""
        config = self.make_config(
            http=TOKENS, dataset={"replay_fraction": 0.2, "golden_pairs": False}, **{"trust": {}, **sections}
        )
        policy = Policy.of(config)
        self.fake.answer = lambda _model, messages: answer or f"There are no {messages[-1]['content'].split()[-1]}."
        client = VllmServer(self.fake.url, admin_token=self.fake.settings.admin_token)
        fleet = Fleet([client], verify=lambda _adapter: None)
        evidence = EvidenceStage(
            store=self.store,
            fleet=fleet,
            config=config.trust,
            serving=config.serving,
            trusted=policy.is_trusted,
            clean=Redactor(config).clean,
        )
        while evidence.step(life()).worked:
            pass
        self._reflect(config, policy)
        client.close()
        stage = dataset_stage(
            self.store,
            self.folder,
            self._model(),
            OrdinaryAnswers(),
            policy=policy,
            is_trusted=policy.trusts,
            **config.dataset.model_dump(),
        )
        return prepared(self.store, stage, self.folder)

    def _reflect(self, config: Config, policy: Policy) -> None:
        stage = ReflectionStage(
            store=self.store,
            config=config.reflection,
            analyst=None,
            score=lambda *_: 0.0,
            preparation=Preparation(),
            policy=policy,
            guidance="",
            owner="night",
        )
        while stage.step(life()).worked:
            pass

    def _model(self) -> Path:
        folder = self.folder / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    def waits(self, report_id: str) -> str | None:
        report = self.store.reports.get(report_id)
        standings = Standings(Policy.of(self.make_config(trust={})), self.store.witnesses)
        return standings.of(report, self.store.reports.lesson(report_id)).waits


@pytest.fixture
def night(sqlite_store: Store, fake_vllm: FakeVllm, tmp_path: Path, make_config: Callable[..., Config]) -> Night:
    return Night(store=sqlite_store, fake=fake_vllm, folder=tmp_path, make_config=make_config)


def taught(run: Run) -> dict[str, int]:
    kinds = [line["kind"] for line in lines_of(run, TRAIN_FILE)]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def test_with_the_two_keys_all_lessons_and_corrections_train(night: Night) -> None:
    night.report()
    run = night.pass_by(intake=VOUCHED, trust={"confirm_corrections": "untrusted"})
    assert run.state is RunState.TRAINING, run.reason
    assert taught(run)["correction"] >= 15
    assert "needs_evidence" not in run.progress.get("left_out", {})
    [entry] = [one for one in night.store.audit.entries() if one.action == "trusted_source"]
    assert (entry.subject, entry.reason) == (
        BACKEND,
        f"run {run.id} uses 20 reports of it without the evidence or confirmation that others need",
    )


def test_with_trust_alone_the_mistakes_train_and_the_corrections_wait(night: Night) -> None:
    night.report()
    run = night.pass_by(intake=VOUCHED)
    assert run.state is RunState.TRAINING, run.reason
    assert "correction" not in taught(run)
    assert run.progress["left_out_texts"]["correction"] == {"needs_confirmation": 20}


def test_without_keys_what_the_model_still_does_wrong_trains(night: Night) -> None:
    ids = night.report()
    run = night.pass_by()
    assert run.state is RunState.TRAINING, run.reason
    assert set(taught(run)) == {"analysis"}
    assert run.progress["grades"] == {"reproduced": 20}
    assert night.waits(ids[0]) == "its correction waits for another source, a judge or a reviewer to confirm it"


def test_without_keys_and_evidence_nothing_trains_and_each_report_says_why(night: Night) -> None:
    ids = night.report()
    run = night.pass_by(answer="Of course: it is a topic that has been studied for a very long time.")
    assert run.state is RunState.FAILED
    assert "20 waiting for evidence that the model gave the answer" in str(run.reason)
    assert night.store.reports.get(ids[0]).state is ReportState.LESSON
    assert str(night.waits(ids[0])).startswith("it waits for evidence that the model gave this answer: ")
