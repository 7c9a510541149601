"""The stage and a runner whose trainers outlive the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon import metrics
from daemon.config.training import RayConfig
from daemon.records import RunState
from daemon.store import Store
from daemon.training.job import CHECKPOINTS, Phase, TrainingProgress
from daemon.training.ray_runner import RayRunner
from daemon.training.remote_runner import Note
from daemon.training.stage import FinetuneStage, _ProgressExporter
from tests.fakes.ray import ADDRESS, FakeCluster, Info
from tests.fixtures.life import life
from tests.fixtures.training import finetune_stage, run_to_train


def _stage(cluster: FakeCluster, store: Store, folder: Path, model: Path, **ray: Any) -> FinetuneStage:
    """A stage whose daemon has just started."""
    settings = {"address": ADDRESS, **ray}
    stage = finetune_stage(store, folder, model, runner="ray", ray=settings)
    stage._runner = RayRunner(RayConfig.model_validate(settings), connect=cluster.connect)
    return stage


def test_a_run_waits_for_a_cluster_that_does_not_answer_and_fails_when_it_stays_silent(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    cluster = FakeCluster(failing=ConnectionError("no route to host"))
    stage = _stage(cluster, sqlite_store, tmp_path, tiny_model, unreachable_s=1e-9)

    said = [stage.step(life()).sentence for _ in range(2)]

    reason = f"the Ray cluster at {ADDRESS} does not answer as it should: no route to host"
    assert said[0] == f"run {run.id} waits: {reason}"
    ended = sqlite_store.runs.get(run.id)
    assert (ended.state, ended.reason) == (RunState.FAILED, f"{reason}; that is so for over 1e-09 s")
    assert "failed_attempts" not in ended.progress


def test_steps_and_tokens_of_a_trainer_that_the_cluster_replaced_are_counted_from_its_start(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    exporter = _ProgressExporter(sqlite_store.runs, run)

    def counted(**progress: Any) -> tuple[float, float]:
        before = _counted()
        exporter.update(TrainingProgress(phase=Phase.TRAINING, steps=20, **progress))
        after = _counted()
        return after[0] - before[0], after[1] - before[1]

    assert counted(step=8, tokens=800) == (8, 800)
    assert counted(first_step=5, step=5, tokens=0) == (0, 0)
    assert counted(first_step=5, step=7, tokens=200) == (2, 200)
    assert counted(first_step=5, step=6, tokens=100) == (1, 100)
    assert counted(first_step=5, step=9, tokens=500) == (3, 400)


def _counted() -> tuple[float, float]:
    return tuple(metric._value.get() for metric in (metrics.TRAINING_STEPS, metrics.TRAINING_TOKENS))


def test_the_next_daemon_stops_the_trainer_of_a_run_that_ended_meanwhile(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    folder, cluster = Path(run.folder), FakeCluster(jobs={"at-work": Info("RUNNING")})
    Note(attempt=1, name="at-work", open=True).save(folder / RayRunner.note_file)
    (folder / CHECKPOINTS).mkdir()
    sqlite_store.runs.failed(run.id, reason="a report of it was erased")
    stage = _stage(cluster, sqlite_store, tmp_path, tiny_model)

    cluster.failing = ConnectionError("no route to host")
    assert stage.step(life()).sentence == "no run to train"
    assert cluster.stopped == []
    cluster.failing = None
    stage.step(life())

    assert cluster.stopped == ["at-work"]
    assert not Note.load(folder / RayRunner.note_file).open
    assert not (folder / CHECKPOINTS).exists()
