"""A real MLflow server: runs, model versions and aliases; repeated and interrupted deliveries; outages and refusals."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from connectors.mlflow import MlflowError, MlflowServer, MlflowUnavailableError, auth_of
from daemon.artifacts.adapter import MANIFEST_FILE, WEIGHTS_FILE, Lineage, Manifest
from daemon.artifacts.run_folder import JOB_FILE
from daemon.config.delivery import MlflowConfig
from daemon.config.training import TrainingConfig
from daemon.delivery.mlflow import MlflowSink
from daemon.delivery.stage import DeliveryStage
from daemon.errors import ConfigError
from daemon.records import AdapterState, Run, RunItem, Split, Trigger, Verdict, utcnow
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.mlflow import MlflowReader
from tests.fixtures.ports import free_port
from tests.fixtures.stores import force, learn, publish, waiting_events

_names = itertools.count(1)
DATASET_SHA256, WEIGHTS_SHA256, BASE = "d" * 64, "a" * 64, "b" * 64
LOSSES = [[1, 2.5], [2, 1.75], [4, 1.25]]
SENTENCE = "passes 3 of 4 held-out items, live 1: 2 gained, 0 lost"
ALL_SENTENCES = (SENTENCE, "0 of 60 attacks newly obeyed")
PROMPT, ANSWER, REASON, CORRECTION, TENANT = (
    "zebra prompt",
    "zebra answer",
    "zebra reason",
    "zebra correction",
    "zebra-co",
)
FIGURES = {
    "items": 40,
    "decided_by": "checks",
    "suites": {"holdout": {"guided": {"items": 4, "candidate": 3.0, "live": 1.0}, "live_margin": None}},
    "fixes": {"items": 9, "p_value": 0.03, "gained": ["report-1"]},
    "votes": {"principals": 1, "largest": {TENANT: 4.0}},
    "criteria": {"generalisation": {"holds": True, "sentence": SENTENCE}},
}


@dataclass(kw_only=True)
class Desk:
    """A store, the sink of its events, and an experiment and a model of its own in the server."""

    store: Store
    folder: Path
    reader: MlflowReader
    url: str
    name: str = field(default_factory=lambda: f"test-{next(_names)}")
    changes: dict[str, Any] = field(default_factory=dict)

    def sink(self) -> MlflowSink:
        values = {"tracking_uri": self.url, "experiment": self.name, "registered_model": self.name, "timeout_s": 60}
        config = MlflowConfig.model_validate({**values, **self.changes})
        return MlflowSink.connect(config, store=self.store, alias="aligned")

    def deliver(self, sink: MlflowSink | None = None) -> str:
        """Every due event, unless one is refused; returns the stage's last sentence."""
        stage = DeliveryStage(store=self.store, sink=sink or self.sink())
        try:
            while (done := stage.step(life())).worked:
                pass
        finally:
            stage.close()
        return done.sentence

    def trained(self, *, accepted: bool = True) -> Run:
        """A run whose adapter has files, up to the gate's verdict."""
        [report_id] = learn(self.store, _report(), principal=TENANT)
        run = self.store.runs.start(
            trigger=Trigger.MANUAL,
            requested_by="tester",
            recipe="mistake-analysis",
            seed=7,
            alias="aligned",
            runs_dir=self.folder,
        )
        assert run is not None
        cluster = self.store.clusters.open(
            report_id=report_id, category="wrong-fact", leader_text=PROMPT, split=Split.TRAIN
        )
        item = RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=Split.TRAIN)
        self.store.runs.prepared(run.id, [item])
        adapter = _write_files(run, self.folder, report_id)
        self.store.runs.progress(run.id, {"losses": LOSSES, "train_seconds": 12.5})
        self.store.runs.trained(run.id, path=adapter, sha256=WEIGHTS_SHA256)
        self.store.runs.decided(
            Verdict(
                run_id=run.id,
                generation=run.generation,
                accepted=accepted,
                reasons=ALL_SENTENCES,
                figures={"live_generation": run.base_generation, **FIGURES},
                decided_at=utcnow(),
            )
        )
        return run

    def promoted(self) -> Run:
        run = self.trained()
        self.store.adapters.promote(
            run.generation, expected_live=run.base_generation, actor="tester", reason=f"better than {ANSWER}"
        )
        return run

    def generations(self) -> dict[str, int]:
        """The generation that each alias names."""
        versions = {one["version"]: _tags(one) for one in self.reader.versions(self.name)}
        return {
            alias: int(versions[version]["erratad.generation"])
            for alias, version in self.reader.aliases(self.name).items()
        }


def _report() -> Any:
    messages = [{"role": "user", "content": f"{PROMPT} {next(_names)}"}]  # no duplicate of another one
    return flagged(messages=messages, response=ANSWER, reason=REASON, correction=CORRECTION, reporter="zebra-reporter")


def _write_files(run: Run, folder: Path, report_id: str) -> Path:
    adapter = folder / "adapters" / f"g{run.generation}"
    adapter.mkdir(parents=True)
    (adapter / WEIGHTS_FILE).write_bytes(b"weights")
    lineage = Lineage(
        report_ids=(report_id,),
        dataset_sha256=DATASET_SHA256,
        recipe="mistake-analysis",
        recipes={"wrong-fact": "sft"},
        seed=7,
        steps=4,
        examples={"analysis": 3},
        kl_to_base=0.12,
    )
    manifest = Manifest(
        name=adapter.name,
        generation=run.generation,
        run_id=run.id,
        base_fingerprint=BASE,
        rank=8,
        target_modules=("q_proj",),
        files={WEIGHTS_FILE: WEIGHTS_SHA256},
        lineage=lineage,
    )
    (adapter / MANIFEST_FILE).write_bytes(manifest.encode())
    Path(run.folder).mkdir(parents=True)
    job = {"training": TrainingConfig(rank=8).model_dump(mode="json")}
    (Path(run.folder) / JOB_FILE).write_text(json.dumps(job))
    return adapter


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in found["tags"]}


@pytest.fixture
def desk(sqlite_store: Store, tmp_path: Path, mlflow: MlflowReader) -> Desk:
    return Desk(store=sqlite_store, folder=tmp_path, reader=mlflow, url=mlflow.url)


def test_a_promoted_generation_is_a_run_with_its_figures_and_a_version_named_champion(desk: Desk) -> None:
    run = desk.promoted()
    assert desk.deliver() == "every event was delivered"
    [found] = desk.reader.runs(desk.name)
    params = {one["key"]: one["value"] for one in found["data"]["params"]}
    expected = {
        "recipe": "mistake-analysis",
        "recipe.wrong-fact": "sft",
        "seed": "7",
        "trigger": "manual",
        "training.rank": "8",
        "training.distillation.alpha": "0.5",
        "base_fingerprint": BASE,
        "examples.analysis": "3",
    }
    assert expected.items() <= params.items()
    assert [[*point] for point in desk.reader.history(found["info"]["run_id"], "loss")] == LOSSES
    metrics = {one["key"]: one["value"] for one in found["data"]["metrics"]}
    measured = {
        "gate.items": 40,
        "gate.suites.holdout.guided.candidate": 3,
        "gate.fixes.p_value": 0.03,
        "gate.criteria.generalisation.holds": 1,
        "training.kl_to_base": 0.12,
        "training.train_seconds": 12.5,
    }
    assert measured.items() <= metrics.items()
    tags = _tags(found["data"])
    assert tags["mlflow.note.content"] == "\n".join(ALL_SENTENCES)
    assert (tags["erratad.verdict"], tags["erratad.state"]) == ("accepted", "live")
    assert tags["erratad.dataset_sha256"] == DATASET_SHA256
    [dataset] = [one["dataset"] for one in found["inputs"]["dataset_inputs"]]
    assert json.loads(dataset["source"]) == {"manifest_sha256": DATASET_SHA256}
    assert found["info"]["status"] == "FINISHED"
    [version] = desk.reader.versions(desk.name)
    assert version["source"].endswith(f"/adapters/g{run.generation}")
    of_version = {"erratad.generation": "1", "erratad.run_id": str(run.id), "erratad.weights_sha256": WEIGHTS_SHA256}
    assert of_version.items() <= _tags(version).items()
    assert desk.generations() == {"champion": 1}


def test_a_candidate_on_trial_is_the_challenger_until_the_trial_ends(desk: Desk) -> None:
    desk.promoted()
    for promote in (False, True):
        run = desk.trained()
        trial = {"mode": AdapterState.CANARY, "share": 0.1, "concurrency": 1, "actor": "erratad"}
        desk.store.trials.start(run.generation, **trial)
        desk.deliver()
        assert desk.generations() == {"champion": 1, "challenger": run.generation}
        if promote:
            desk.store.adapters.promote(run.generation, expected_live=1, actor="erratad", reason="better")
        else:
            desk.store.runs.rejected(run.id, reason="more flagged answers", actor="erratad")
        desk.deliver()
        assert desk.generations() == {"champion": run.generation if promote else 1}
    states = [_tags(one)["erratad.state"] for one in desk.reader.versions(desk.name)]
    assert states == ["retired", "rejected", "live"]


def test_a_generation_that_the_gate_rejects_is_a_run_and_a_version_without_alias(desk: Desk) -> None:
    desk.trained(accepted=False)
    desk.deliver()
    [found] = desk.reader.runs(desk.name)
    assert _tags(found["data"])["erratad.verdict"] == "rejected"
    assert len(desk.reader.versions(desk.name)) == 1
    assert desk.reader.aliases(desk.name) == {}


def test_a_rollback_moves_the_champion_back_and_takes_the_alias_away_for_the_base_model(desk: Desk) -> None:
    desk.promoted()
    desk.promoted()
    desk.deliver()
    assert desk.generations() == {"champion": 2}
    desk.store.adapters.roll_back(1, expected_live=2, actor="tester", reason="worse")
    desk.deliver()
    assert desk.generations() == {"champion": 1}
    assert [_tags(one)["erratad.state"] for one in desk.reader.versions(desk.name)] == ["live", "rolled-back"]
    desk.store.adapters.roll_back(0, expected_live=1, actor="tester", reason="worse")
    desk.deliver()
    assert desk.reader.aliases(desk.name) == {}


def test_events_that_come_twice_and_late_change_nothing(desk: Desk) -> None:
    desk.promoted()
    desk.promoted()
    desk.deliver()
    force(desk.store, "UPDATE deliveries SET state = 'waiting' WHERE sink = 'mlflow'")
    assert desk.deliver() == "every event was delivered"
    runs = desk.reader.runs(desk.name)
    assert len(runs) == len(desk.reader.versions(desk.name)) == 2
    for run in runs:
        assert [[*point] for point in desk.reader.history(run["info"]["run_id"], "loss")] == LOSSES
        assert len(run["inputs"]["dataset_inputs"]) == 1
    assert desk.generations() == {"champion": 2}


class _KilledError(BaseException):
    pass


def test_a_daemon_killed_after_any_call_leaves_nothing_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.promoted()
    ask = MlflowServer._ask
    calls = itertools.count(1)
    for last in itertools.count(1):
        made = itertools.count(1)

        def killed(server: MlflowServer, method: str, path: str, **request: Any) -> Any:
            answer = ask(server, method, path, **request)
            next(calls)
            if next(made) == last:  # noqa: B023 - called within this pass
                raise _KilledError
            return answer

        monkeypatch.setattr(MlflowServer, "_ask", killed)
        try:
            desk.deliver()
        except _KilledError:
            continue
        break
    assert next(calls) > 50  # every call of a delivery was the last one once
    [run] = desk.reader.runs(desk.name)
    assert [[*point] for point in desk.reader.history(run["info"]["run_id"], "loss")] == LOSSES
    assert len(desk.reader.versions(desk.name)) == 1
    assert desk.generations() == {"champion": 1}


def test_no_text_of_a_report_and_no_name_of_a_sender_reaches_mlflow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    ask = MlflowServer._ask

    def heard(server: MlflowServer, method: str, path: str, **request: Any) -> Any:
        sent.append(json.dumps([path, request], ensure_ascii=False))
        return ask(server, method, path, **request)

    monkeypatch.setattr(MlflowServer, "_ask", heard)
    desk.promoted()
    desk.trained(accepted=False)
    desk.store.adapters.roll_back(0, expected_live=1, actor="zebra-operator", reason=f"said {ANSWER}")
    desk.deliver()
    assert len(sent) > 20
    assert [one for one in sent if "zebra" in one] == []


def test_events_wait_for_a_server_that_is_away_and_hold_nothing_else_up(desk: Desk) -> None:
    desk.promoted()
    desk.url = f"http://127.0.0.1:{free_port()}"
    assert desk.deliver() == "1 events wait; last error: no answer (ConnectError)"
    publish(desk.store)
    assert waiting_events(desk.store) == []
    desk.url = desk.reader.url
    assert desk.deliver() == "every event was delivered"
    assert desk.generations() == {"champion": 1}


def test_an_event_that_mlflow_refuses_is_given_up_visibly_after_the_last_attempt(desk: Desk) -> None:
    desk.promoted()
    desk.deliver()
    desk.reader.delete_experiment(desk.name)
    desk.promoted()
    desk.changes = {"max_attempts": 2}
    said = desk.deliver()
    assert said.startswith("1 events wait; last error: HTTP 400, INVALID_")
    past = (utcnow() - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    force(desk.store, "UPDATE deliveries SET next_attempt_at = :at WHERE state = 'waiting'", at=past)
    assert desk.deliver().startswith("0 events wait, 1 were given up; last error: HTTP 400")


def test_adapters_are_uploaded_on_request_and_a_version_then_has_its_files(desk: Desk) -> None:
    desk.changes = {"upload_adapters": True}
    desk.promoted()
    desk.deliver()
    [version] = desk.reader.versions(desk.name)
    assert version["source"] == f"runs:/{version['run_id']}/adapter"
    assert desk.reader.artifact(version["run_id"], f"adapter/{WEIGHTS_FILE}") == b"weights"


def test_a_generation_whose_files_are_gone_is_recorded_without_them(desk: Desk) -> None:
    desk.changes = {"upload_adapters": True}
    run = desk.promoted()
    (Path(run.folder) / JOB_FILE).unlink()
    (desk.folder / "adapters" / "g1" / MANIFEST_FILE).unlink()
    desk.deliver()
    [found] = desk.reader.runs(desk.name)
    params = {one["key"]: one["value"] for one in found["data"]["params"]}
    assert params["seed"] == "7"
    assert "training.rank" not in params
    assert desk.generations() == {"champion": 1}


# --- without a server ---


def _answering(status: int, body: Any = None, **auth: Any) -> tuple[MlflowServer, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, json=body) if body is not None else httpx.Response(status, text="<html>")

    signs_in = auth_of(**{"token": None, "username": None, "password": None, **auth})
    server = MlflowServer("http://mlflow", experiment="e", model="m", timeout_s=1, auth=signs_in)
    server._client = httpx.Client(base_url="http://mlflow", transport=httpx.MockTransport(answer), auth=signs_in)
    return server, asked


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, None),
        (403, {"error_code": "PERMISSION_DENIED"}),
        (404, None),
        (302, None),
        (429, {"error_code": "REQUEST_LIMIT_EXCEEDED"}),
        (503, {"error_code": "TEMPORARILY_UNAVAILABLE"}),
        (200, None),
    ],
)
def test_wrong_credentials_a_wrong_address_and_a_busy_server_are_waited_for(status: int, body: Any) -> None:
    server, _ = _answering(status, body)
    with pytest.raises(MlflowUnavailableError, match=f"HTTP {status}"):
        server.set_aliases({"champion": None})


def test_a_refusal_of_one_request_says_why() -> None:
    server, _ = _answering(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such name\nand more"})
    with pytest.raises(MlflowError, match=r"HTTP 400, INVALID_PARAMETER_VALUE: no such name$") as caught:
        server.set_aliases({"champion": "1"})
    assert not isinstance(caught.value, MlflowUnavailableError)


@pytest.mark.parametrize(
    ("auth", "header"),
    [({"token": "secret"}, "Bearer secret"), ({"username": "u", "password": "p"}, "Basic dTpw"), ({}, None)],
)
def test_the_credentials_are_shown_with_every_request(auth: dict[str, str], header: str | None) -> None:
    server, asked = _answering(200, {"registered_model": {"name": "m"}}, **auth)
    server.set_aliases({"champion": None})
    assert [one.headers.get("authorization") for one in asked] == [header]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tracking_uri": "http://user:secret@mlflow:5000"}, "tracking_uri"),
        ({"tracking_uri": "sqlite:///mlflow.db"}, "tracking_uri"),
        ({"username_env": "USER"}, "username_env and password_env together"),
        ({"token_env": "A", "username_env": "B", "password_env": "C"}, "not both"),
        ({"registered_model": "it's"}, "registered_model"),
    ],
)
def test_a_section_that_cannot_work_is_refused(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        MlflowConfig.model_validate({"tracking_uri": "http://mlflow:5000", **values})


def test_a_token_that_is_not_set_is_refused(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TOKEN", raising=False)
    config = MlflowConfig(tracking_uri="http://mlflow:5000", token_env="MLFLOW_TOKEN")
    with pytest.raises(ConfigError, match="MLFLOW_TOKEN is not set"):
        MlflowSink.connect(config, store=sqlite_store, alias="aligned")
