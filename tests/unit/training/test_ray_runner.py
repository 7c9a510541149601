"""The runner `ray` against a fake of Ray's client: a job is submitted once, adopted, stopped, and its end told."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.artifacts.run_folder import JOB_FILE
from daemon.config.training import RayConfig, TrainingConfig
from daemon.errors import ConfigError, RunnerUnavailableError, TrainingError
from daemon.training import ray_runner, remote_runner
from daemon.training.job import LOG_FILE, PROGRESS_FILE, STOP_FILE, Phase, TrainingJob, TrainingProgress, run_lock
from daemon.training.ray_job import StopFile
from daemon.training.ray_runner import RayRunner
from daemon.training.remote_runner import Note
from tests.fakes.ray import ADDRESS, FakeCluster, Info
from tests.fixtures.remote_training import remote_job


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def runner(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayRunner]:
    """A runner, as a new daemon makes it."""
    monkeypatch.setattr(RayRunner, "poll_s", 0.01)
    monkeypatch.setattr(remote_runner, "LOG_EVERY_S", 0.0)

    def make(**config: Any) -> RayRunner:
        return RayRunner(RayConfig.model_validate({"address": ADDRESS, **config}), connect=cluster.connect)

    return make


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return remote_job(tmp_path)


def test_a_job_names_its_run_and_takes_workers_and_environment_from_the_configuration(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    config = {"workers": 4, "gpus_per_worker": 1, "placement": "SPREAD", "runtime_env": {"env_vars": {"A": "b"}}}
    TrainingProgress(step=9).save(job.run_folder)
    (job.run_folder / STOP_FILE).touch()

    attempt = runner(**config).start(job)

    [sent] = cluster.submitted
    program, settings = shlex.split(sent["entrypoint"])[:-1], shlex.split(sent["entrypoint"])[-1]
    assert program == ["python", "-m", "daemon.training.ray_job", str(job.run_folder / JOB_FILE)]
    assert RayConfig.model_validate_json(settings) == RayConfig.model_validate({**config, "runtime_env": {}})
    assert sent["runtime_env"]["env_vars"].items() >= {"A": "b", "OMP_NUM_THREADS": "2"}.items()
    assert sent["metadata"]["run"] == "7"
    assert str(attempt) == f"Ray job {sent['submission_id']}"
    assert [(job.run_folder / name).exists() for name in (PROGRESS_FILE, STOP_FILE)] == [False, False]


def test_a_job_is_followed_to_its_end_with_its_log(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    (job.run_folder / LOG_FILE).write_text("an earlier attempt\n")
    attempt = runner().start(job)
    [name] = cluster.jobs
    assert (attempt.ended(), attempt.waits) == (None, "waits on the Ray cluster: Job has not started yet.")

    cluster.jobs[name], cluster.logs = Info("RUNNING"), "loads\n"
    assert (attempt.ended(), attempt.waits) == (None, None)
    cluster.logs = "loads\n\x1b[36mtrains\x1b[0m\n"
    adopted = runner().start(job)
    cluster.jobs[name] = Info("FAILED", "exit code 1, last available logs (truncated to 20,000 chars):\nTraceback")

    assert adopted.ended() == "failed on the cluster (exit code 1)"
    assert (job.run_folder / LOG_FILE).read_text() == "an earlier attempt\nloads\ntrains\n"


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "SUCCEEDED", "FAILED"])
def test_a_daemon_that_restarts_adopts_the_job_whatever_became_of_it(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob, state: str
) -> None:
    first = runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info(state)
    TrainingProgress(phase=Phase.REFUSED, reason="no").save(job.run_folder)

    with run_lock(job.run_folder):  # a worker on this machine holds it
        assert not runner().busy(job.run_folder)
        adopted = runner().start(job)

    assert str(adopted) == str(first)
    assert len(cluster.submitted) == 1
    assert TrainingProgress.load(job.run_folder).reason == "no"


def test_an_answer_that_is_lost_after_the_submission_doubles_no_job(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    cluster.forgets_to_answer = True
    with pytest.raises(RunnerUnavailableError, match="the connection was reset"):
        runner().start(job)
    cluster.forgets_to_answer = False

    runner().start(job)

    assert len(cluster.submitted) == len(cluster.jobs) == 1


def test_a_crash_before_the_submission_loses_no_job(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    noted = Note().next(job, prefix="erratad-aligned-g000007").save(job.run_folder / RayRunner.note_file)
    runner().start(job)
    assert list(cluster.jobs) == [noted.name]


def test_the_job_after_one_that_ended_has_a_name_of_its_own(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    first = runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info("FAILED")
    assert first.ended() == "failed on the cluster"

    runner().start(job)

    assert list(cluster.jobs) == [name, f"{name.removesuffix('-1')}-2"]


def test_a_job_that_the_cluster_forgot_has_ended(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    attempt = runner().start(job)
    cluster.jobs.clear()
    assert "is gone from the cluster" in (attempt.ended() or "")
    assert not Note.load(job.run_folder / RayRunner.note_file).open


def test_a_stop_asks_the_workers_first_and_then_stops_the_job(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_runner, "STOP_GRACE_S", 0.05)
    attempt = runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info("RUNNING")

    assert not StopFile(job.run_folder).is_set()
    attempt.stop()

    assert StopFile(job.run_folder).is_set()
    assert cluster.stopped == [name]
    assert attempt.ended() == "was stopped on the cluster"


def test_a_stop_leaves_a_job_that_ends_by_itself_alone(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    attempt = runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info("SUCCEEDED")
    attempt.stop()
    assert cluster.stopped == []


def test_a_job_of_a_run_that_has_ended_is_stopped_once(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    assert not runner().forget(job.run_folder)
    runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info("RUNNING")
    assert runner().forget(job.run_folder)
    assert not runner().forget(job.run_folder)
    assert cluster.stopped == [name]


def test_a_cluster_that_does_not_answer_is_waited_for_and_named(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    cluster.failing = ConnectionError("no route to host")
    with pytest.raises(RunnerUnavailableError, match=r"the Ray cluster at http://ray-head:8265 .* no route to host"):
        runner().start(job)
    cluster.failing = None
    attempt = runner().start(job)
    [name] = cluster.jobs
    cluster.jobs[name] = Info("RUNNING")

    cluster.failing = ConnectionError("no route to host")
    assert attempt.ended() is None
    assert "no route to host" in (attempt.waits or "")
    attempt.stop()  # the file alone reaches the workers
    assert (job.run_folder / STOP_FILE).exists()
    assert json.loads((job.run_folder / RayRunner.note_file).read_text())["open"]
    cluster.failing = None
    assert (attempt.ended(), attempt.waits) == (None, None)


def test_a_cluster_that_stays_silent_fails_the_run(
    runner: Callable[..., RayRunner], cluster: FakeCluster, job: TrainingJob
) -> None:
    silent = runner(unreachable_s=0.01)
    cluster.failing = RuntimeError("Request failed with status code 500")
    with pytest.raises(RunnerUnavailableError):
        silent.start(job)
    time.sleep(0.02)
    with pytest.raises(TrainingError, match=r"status code 500; that is so for over 0\.01 s"):
        silent.start(job)


def test_a_trainer_of_another_runner_is_not_adopted(runner: Callable[..., RayRunner], job: TrainingJob) -> None:
    with run_lock(job.run_folder):
        assert runner().busy(job.run_folder)
    assert not runner().busy(job.run_folder)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, job: TrainingJob) -> None:
    monkeypatch.setattr(ray_runner, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"install erratad\[ray\]"):
        RayRunner(RayConfig(address=ADDRESS)).start(job)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runner": "ray"}, "runner ray needs ray.address"),
        ({"runner": "slurm"}, "Input should be 'local', 'ray' or 'kubernetes'"),
        ({"runner": "ray", "ray": {"address": ADDRESS}, "launcher": ["torchrun"]}, "leave launcher empty"),
        ({"ray": {"runtime_env": {"working_dir": "."}}}, "takes no working_dir: install erratad in the image"),
        ({"ray": {"workers": 0}}, "greater than 0"),
        ({"ray": {"placement": "NEAR"}}, "STRICT_SPREAD"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TrainingConfig.model_validate(values)
    assert words in str(refused.value)
