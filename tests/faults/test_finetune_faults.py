"""Training that is killed, stopped, orphaned, or short of disk or time ends with the same adapter as undisturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.artifacts.adapter import MANIFEST_FILE, WEIGHTS_FILE
from daemon.artifacts.run_folder import JOB_FILE
from daemon.records import Run, RunState
from daemon.runtime.child import DAEMON_PID_VARIABLE
from daemon.runtime.stage import Step
from daemon.store import Store, open_store
from daemon.training import process as training_process
from daemon.training.job import (
    CHECKPOINTS,
    COMPLETE_MARK,
    Phase,
    TrainingJob,
    TrainingProgress,
    run_lock,
)
from daemon.training.stage import FinetuneStage
from daemon.training.trainer import last_checkpoint
from tests.fixtures.life import life
from tests.fixtures.recorded import TORCHRUN
from tests.fixtures.stores import url_of
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained, training_config

pytestmark = pytest.mark.slow

MANY_STEPS = {"batch_tokens": 48, "epochs": 6}
"""Long enough to be caught in the middle, on a fast machine too."""
WAIT_S = 240.0


def _wait(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def _weights(folder: Path) -> bytes:
    return (folder / "adapters" / "aligned-g000001" / WEIGHTS_FILE).read_bytes()


def _steps(folder: Path) -> int:
    manifest = json.loads((folder / "adapters" / "aligned-g000001" / MANIFEST_FILE).read_text())
    return int(manifest["lineage"]["steps"])


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The children that stages started, newest last."""
    started: list[subprocess.Popen[bytes]] = []
    start = training_process.start_trainer

    def recorded(job: TrainingJob, *, launcher: list[str]) -> subprocess.Popen[bytes]:
        started.append(start(job, launcher=launcher))
        return started[-1]

    monkeypatch.setattr("daemon.training.process.start_trainer", recorded)
    yield started
    for child in started:
        training_process.stop_trainer(child)


@pytest.fixture
def background() -> Iterator[Callable[[FinetuneStage, threading.Event], Future[Step]]]:
    """Makes a step in a thread, as the daemon does."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda stage, stop: pool.submit(stage.step, life(stop))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}")
    run = run_to_train(store, folder, tiny_model)
    step_until_trained(store, finetune_stage(store, folder, tiny_model, **MANY_STEPS))
    assert store.runs.get(run.id).state is RunState.EVALUATING
    store.close()
    return folder


def _past_a_checkpoint(run: Run) -> bool:
    return TrainingProgress.load(Path(run.folder)).step > 6


def test_a_killed_trainer_goes_on_from_its_checkpoint_to_the_same_weights(
    sqlite_store: Store,
    tmp_path: Path,
    tiny_model: Path,
    undisturbed: Path,
    children: list[subprocess.Popen[bytes]],
    background: Callable[[FinetuneStage, threading.Event], Future[Step]],
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    stage = finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS)
    step = background(stage, threading.Event())
    _wait(lambda: _past_a_checkpoint(run))

    # a second daemon finds the run taken and starts nothing
    other = finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS).step(life())
    assert (other.worked, "is still running; waiting" in other.sentence) == (False, True)
    assert len(children) == 1

    children[0].kill()
    assert "was killed by SIGKILL" in step.result(WAIT_S).sentence
    assert sqlite_store.runs.get(run.id).progress["failed_attempts"] == 1
    step_until_trained(sqlite_store, stage)

    assert sqlite_store.runs.get(run.id).state is RunState.EVALUATING, sqlite_store.runs.get(run.id).reason
    assert TrainingProgress.load(Path(run.folder)).first_step >= 5
    assert len(children) == 2
    assert _steps(tmp_path) == _steps(undisturbed)
    # any batch that was made twice, left out or reordered would show in the weights
    assert _weights(tmp_path) == _weights(undisturbed)


def test_a_stop_writes_a_checkpoint_and_the_next_daemon_goes_on_from_there(
    sqlite_store: Store,
    tmp_path: Path,
    tiny_model: Path,
    undisturbed: Path,
    children: list[subprocess.Popen[bytes]],
    background: Callable[[FinetuneStage, threading.Event], Future[Step]],
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    stop = threading.Event()
    step = background(finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS), stop)
    _wait(lambda: _past_a_checkpoint(run))
    stop.set()

    assert "training stopped at step" in step.result(WAIT_S).sentence
    stopped = TrainingProgress.load(Path(run.folder))
    assert stopped.phase is Phase.STOPPED
    assert sqlite_store.runs.get(run.id).state is RunState.TRAINING
    assert "failed_attempts" not in sqlite_store.runs.get(run.id).progress

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS))

    assert sqlite_store.runs.get(run.id).state is RunState.EVALUATING
    assert TrainingProgress.load(Path(run.folder)).first_step == stopped.step
    assert _weights(tmp_path) == _weights(undisturbed)


def test_two_ranks_stop_at_one_step_and_one_process_goes_on_from_there(
    sqlite_store: Store,
    tmp_path: Path,
    tiny_model: Path,
    background: Callable[[FinetuneStage, threading.Event], Future[Step]],
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    stop = threading.Event()
    step = background(finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS, launcher=TORCHRUN), stop)
    _wait(lambda: _past_a_checkpoint(run))
    stop.set()

    assert "training stopped at step" in step.result(WAIT_S).sentence
    stopped = TrainingProgress.load(Path(run.folder))
    assert stopped.phase is Phase.STOPPED  # a process that waited for the other one would be killed

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS))

    assert sqlite_store.runs.get(run.id).state is RunState.EVALUATING
    ended = TrainingProgress.load(Path(run.folder))
    assert ended.first_step == stopped.step
    assert ended.step == ended.steps == stopped.steps == _steps(tmp_path)


DAEMON = """
import sys
from pathlib import Path
from daemon.store import open_store
from tests.fixtures.life import life
from tests.fixtures.training import finetune_stage
url, folder, model = sys.argv[1:]
finetune_stage(open_store(url), Path(folder), Path(model), batch_tokens=48, epochs=6).step(life())
"""


def test_a_daemon_that_is_killed_takes_its_trainer_along_and_loses_no_step(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, undisturbed: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    command = [sys.executable, "-c", DAEMON, url_of(sqlite_store), str(tmp_path), str(tiny_model)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as daemon:
        _wait(lambda: _past_a_checkpoint(run))
        daemon.kill()

    def released() -> bool:
        with run_lock(Path(run.folder)) as free:
            return free

    _wait(released)
    stopped = TrainingProgress.load(Path(run.folder))
    assert stopped.phase is Phase.STOPPED
    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, **MANY_STEPS))

    assert sqlite_store.runs.get(run.id).state is RunState.EVALUATING
    assert TrainingProgress.load(Path(run.folder)).first_step == stopped.step
    assert _weights(tmp_path) == _weights(undisturbed)


def test_a_trainer_that_finds_its_daemon_dead_does_not_begin(tmp_path: Path, tiny_model: Path) -> None:
    job = _job(tmp_path, tiny_model)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    done = _run_trainer(job, {DAEMON_PID_VARIABLE: str(gone.pid)})
    assert "the daemon died before the work began" in done.stderr


def test_two_trainers_never_work_on_one_run(tmp_path: Path, tiny_model: Path) -> None:
    job = _job(tmp_path, tiny_model)
    with run_lock(job.run_folder) as mine:
        assert mine
        done = _run_trainer(job, {})
    assert (done.returncode, "another process is training run 1" in done.stderr) == (75, True)


def _job(tmp_path: Path, model_path: Path) -> TrainingJob:
    job = TrainingJob(
        run_id=1,
        generation=1,
        name="aligned-g000001",
        recipe="mistake-analysis",
        seed=1,
        run_folder=tmp_path,
        adapters_dir=tmp_path / "adapters",
        model_path=model_path,
        base_fingerprint="f" * 64,
        training=training_config(),
    )
    (tmp_path / JOB_FILE).write_text(job.model_dump_json())
    return job


def _run_trainer(job: TrainingJob, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon.training.trainer", str(job.run_folder / JOB_FILE)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_full_disk_is_retried_and_then_fails_the_run_with_the_trainers_words(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    # no file may grow beyond 20 kB: the first checkpoint cannot be written
    stage = finetune_stage(
        sqlite_store,
        tmp_path,
        tiny_model,
        launcher=["prlimit", "--fsize=20000"],
        max_attempts=2,
        checkpoint_every_steps=1,
    )

    said = step_until_trained(sqlite_store, stage)

    ended = sqlite_store.runs.get(run.id)
    assert [len(said), len(children)] == [2, 2]
    assert "attempt 2 resumes from the last checkpoint" in said[0]
    assert ended.state is RunState.FAILED
    assert "in attempt 2 of 2; the end of its log:" in (ended.reason or "")
    assert "File too large" in (ended.reason or "")
    assert not (tmp_path / "adapters" / "aligned-g000001").exists()


def test_a_place_that_cannot_be_written_fails_the_run_before_any_training(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    (tmp_path / "adapters").write_text("a file where the folder should be")

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model))

    assert sqlite_store.runs.get(run.id).state is RunState.FAILED
    assert "training cannot start or write" in (sqlite_store.runs.get(run.id).reason or "")
    assert children == []


def test_a_launcher_that_does_not_exist_fails_the_run(sqlite_store: Store, tmp_path: Path, tiny_model: Path) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, launcher=["no-such-launcher"]))
    assert "no-such-launcher" in (sqlite_store.runs.get(run.id).reason or "")


def test_an_attempt_that_takes_too_long_is_ended_and_counted(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, timeout_s=0.1, max_attempts=1))

    assert "the trainer took over 0.1 s" in (sqlite_store.runs.get(run.id).reason or "")
    assert children[0].returncode == -signal.SIGTERM


def test_a_checkpoint_that_was_cut_short_is_removed_and_the_one_before_it_counts(tmp_path: Path) -> None:
    checkpoints = tmp_path / CHECKPOINTS
    for step in (5, 90, 100):
        (checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    assert last_checkpoint(tmp_path / "none") is None
    for step in (5, 90):
        (checkpoints / f"checkpoint-{step}" / COMPLETE_MARK).touch()

    assert last_checkpoint(checkpoints) == checkpoints / "checkpoint-90"
    assert not (checkpoints / "checkpoint-100").exists()
