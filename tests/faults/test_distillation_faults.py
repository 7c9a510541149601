"""Training with a teacher ends with the same adapter, whenever it is killed, and leaves nothing but the adapter."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from daemon.artifacts.adapter import MANIFEST_FILE, WEIGHTS_FILE
from daemon.artifacts.run_folder import JOB_FILE
from daemon.dataset.recipes import RECIPES
from daemon.labels import LeftOut
from daemon.records import Run, RunState
from daemon.store import Store, open_store
from daemon.training import process as training_process
from daemon.training.job import CHECKPOINTS, TEACHER, Phase, TrainingJob, TrainingProgress
from daemon.training.teacher import LARGEST_ADVANTAGE
from tests.fixtures.life import life
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained, taught_in_three_ways

pytestmark = pytest.mark.slow

STEPS: dict[str, Any] = {
    "batch_tokens": 96,
    "epochs": 3,
    "replay_loss": "distillation",
    "distillation": {"stop_kl": None, "hindsight_floor": 0.0},
}
UNPUBLISHED = """
import os, sys
from daemon.training import trainer
trainer.publish_adapter = lambda *_: os._exit(9)
trainer.main()
"""


@pytest.fixture(scope="module", autouse=True)
def recipe() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "three ways", taught_in_three_ways)
        yield


def _run(store: Store, folder: Path, model: Path) -> Run:
    return run_to_train(store, folder, model, recipe="three ways")


def _lineage(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapters" / "aligned-g000001" / MANIFEST_FILE).read_text())["lineage"])


def _weights(folder: Path) -> bytes:
    return (folder / "adapters" / "aligned-g000001" / WEIGHTS_FILE).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}")
    run = _run(store, folder, tiny_model)
    step_until_trained(store, finetune_stage(store, folder, tiny_model, **STEPS))
    ended = store.runs.get(run.id)
    assert ended.state is RunState.EVALUATING, ended.reason
    assert ended.progress["kl_to_base"] == pytest.approx(_lineage(folder)["kl_to_base"])
    assert REGISTRY.get_sample_value("erratad_training_kl_nats") == pytest.approx(ended.progress["kl_to_base"])
    assert ended.progress["kl_to_base"] > 0.001
    advantage = ended.progress["hindsight_advantage"]
    assert 0 < advantage <= LARGEST_ADVANTAGE
    assert _lineage(folder)["hindsight_advantage"] == pytest.approx(advantage)
    assert REGISTRY.get_sample_value("erratad_hindsight_advantage_nats") == pytest.approx(advantage)
    store.close()
    return folder


def test_what_the_teacher_expected_is_removed_at_the_end(undisturbed: Path) -> None:
    assert not list((undisturbed / "runs").rglob(TEACHER))
    assert not list((undisturbed / "runs").rglob(CHECKPOINTS))


def test_a_trainer_killed_while_it_asks_the_teacher_and_later_ends_with_the_same_weights(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    start: Callable[..., subprocess.Popen[bytes]] = training_process.start_trainer

    def recorded(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(start(*args, **options))
        return children[-1]

    monkeypatch.setattr("daemon.training.process.start_trainer", recorded)
    run = _run(sqlite_store, tmp_path, tiny_model)
    stage = finetune_stage(sqlite_store, tmp_path, tiny_model, **STEPS, max_attempts=4)
    moments: list[Callable[[], bool]] = [
        lambda: any((Path(run.folder) / TEACHER).glob("*.safetensors")),
        lambda: TrainingProgress.load(Path(run.folder)).step > 6,
    ]
    phases = []
    with ThreadPoolExecutor(1) as pool:
        for number, moment in enumerate(moments):
            step = pool.submit(stage.step, life(threading.Event()))
            while len(children) <= number or not moment():
                assert not step.done(), step.result()
                time.sleep(0.005)
            phases.append(TrainingProgress.load(Path(run.folder)).phase)
            children[-1].kill()
            assert "was killed by SIGKILL" in step.result(60).sentence
    step_until_trained(sqlite_store, stage)

    assert sqlite_store.runs.get(run.id).state is RunState.EVALUATING, sqlite_store.runs.get(run.id).reason
    assert phases == [Phase.TEACHER, Phase.TRAINING]
    assert TrainingProgress.load(Path(run.folder)).first_step >= 5
    assert _weights(tmp_path) == _weights(undisturbed)
    assert _lineage(tmp_path)["kl_to_base"] == _lineage(undisturbed)["kl_to_base"]


def test_a_training_that_ended_early_makes_no_further_step_after_a_kill(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    stopping = {**STEPS, "distillation": {**STEPS["distillation"], "stop_kl": 1e-6}}
    results = []
    for killed in (False, True):
        folder = tmp_path / str(killed)
        folder.mkdir()
        store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}") if killed else sqlite_store
        run = _run(store, folder, tiny_model)
        stage = finetune_stage(store, folder, tiny_model, **stopping)
        if killed:
            job: TrainingJob = stage._job(run)
            (folder / "adapters").mkdir()
            command = [sys.executable, "-c", UNPUBLISHED, str(job.run_folder / JOB_FILE)]
            assert subprocess.run(command, check=False).returncode == 9
        said = step_until_trained(store, stage)
        progress = TrainingProgress.load(Path(run.folder))
        assert store.runs.get(run.id).state is RunState.EVALUATING, store.runs.get(run.id).reason
        assert "not_reached" not in store.runs.get(run.id).progress.get("left_out", {}) or progress.step == 5
        results.append((_weights(folder), _lineage(folder), progress.step, said[-1]))
    (weights, lineage, step, sentence), (weights_after, lineage_after, step_after, _) = results
    assert weights == weights_after
    assert step == step_after == lineage["steps"] == lineage_after["steps"] == 5
    assert lineage["kl_to_base"] == lineage_after["kl_to_base"] > 1e-6
    assert lineage["report_ids"] == lineage_after["report_ids"]
    assert "in 5 steps" in sentence


def test_complaints_that_change_nothing_are_left_out_and_told(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "three ways", lambda report, lesson: _only_for(report.id, report, lesson))
    run = _run(sqlite_store, tmp_path, tiny_model)
    strict = {**STEPS, "distillation": {"stop_kl": None, "hindsight_floor": 1e3}}
    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, **strict))

    ended = sqlite_store.runs.get(run.id)
    assert ended.state is RunState.EVALUATING, ended.reason
    left_out = sqlite_store.left_out.of_run(run.id)
    assert {one.reason for one in left_out} == {LeftOut.WEAK_COMPLAINT}
    assert ended.progress["left_out"] == {"weak_complaint": len(left_out)}
    assert ended.progress["skipped_examples"] >= len(left_out) > 0
    assert "hardly changes" in left_out[0].said


def _only_for(report_id: str, *lesson: Any) -> list[Any]:
    """Some reports have nothing but a complaint."""
    examples = taught_in_three_ways(*lesson)
    return examples[2:] if len(report_id) % 2 else examples
