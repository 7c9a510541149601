"""Training in pods: the official client against an API server whose kubelet runs the real trainer as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from daemon.artifacts.adapter import WEIGHTS_FILE
from daemon.records import Run, RunState
from daemon.store import open_store
from daemon.training.job import LOG_FILE, Phase
from daemon.training.kubernetes_runner import KubernetesRunner
from daemon.training.remote_runner import Note
from tests.fakes.kubernetes import FakeKubernetes, wait_until
from tests.fixtures.remote_training import WAIT_S, RemoteTraining
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG: dict[str, Any] = {"batch_tokens": 160, "checkpoint_every_steps": 4}
"""Enough steps to catch a trainer at work."""


@dataclass
class School(RemoteTraining):
    """A run that trains in the cluster."""

    cluster: FakeKubernetes

    @property
    def weights(self) -> Path:
        return self.folder / "adapters" / "aligned-g000001" / WEIGHTS_FILE

    def daemon(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        settings = {"image": "erratad", "kubeconfig": str(self.cluster.kubeconfig)}
        return self.stepping(sys.executable, {**CONFIG, "runner": "kubernetes", "kubernetes": settings})

    def ends(self, daemon: subprocess.Popen[bytes]) -> Run:
        """The run once the daemon has nothing left to train."""
        assert daemon.wait(WAIT_S) == 0, self.said[-3000:]
        return self.store.runs.get(self.run.id)

    def trains_past(self, step: int, *, pod: str | None = None) -> None:
        """Wait until a trainer, of another pod than this one, has made more than so many steps."""
        wait_until(
            lambda: (
                bool(self.cluster.pods)
                and self.cluster.pod["metadata"]["name"] != pod
                and self.progress.phase is Phase.TRAINING
                and self.progress.step > step
            ),
            f"step {step + 1}",
            seconds=WAIT_S,
        )


@pytest.fixture
def school(tmp_path: Path, tiny_model: Path) -> Iterator[School]:
    (tmp_path / "cluster").mkdir()
    store = open_store(f"sqlite:///{tmp_path / 'erratad.sqlite3'}")
    run = run_to_train(store, tmp_path, tiny_model)
    with FakeKubernetes(tmp_path / "cluster", kubelet=True).running() as cluster:
        yield School(cluster=cluster, folder=tmp_path, model=tiny_model, store=store, run=run)
    store.close()


def test_kills_of_daemon_and_pod_and_an_eviction_end_with_the_weights_of_an_undisturbed_training(
    school: School, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Path(school.run.folder)
    with school.daemon() as daemon:
        school.trains_past(2)
        daemon.kill()
    trainer = school.cluster.trainer()

    with school.daemon() as daemon:
        wait_until(lambda: "training adopted" in school.said, "the adoption", seconds=WAIT_S)
        assert school.cluster.trainer() == trainer

        evicted = school.cluster.pod["metadata"]["name"]
        school.cluster.evict()
        school.trains_past(school.progress.step, pod=evicted)
        assert len(school.cluster.created) == 1

        os.kill(school.cluster.trainer(), signal.SIGKILL)
        ended = school.ends(daemon)

    assert ended.state is RunState.EVALUATING, ended.reason
    assert len(school.cluster.created) == 2
    assert ended.progress["failed_attempts"] == 1
    assert school.progress.first_step >= 2
    assert "exit code 137" in school.said
    assert (folder / LOG_FILE).read_text().count("modules: ") >= 2
    assert not Note.load(folder / KubernetesRunner.note_file).open
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    store = open_store(f"sqlite:///{undisturbed / 'erratad.sqlite3'}")
    run_to_train(store, undisturbed, school.model)
    step_until_trained(store, finetune_stage(store, undisturbed, school.model, **CONFIG))
    store.close()
    together = load_file(school.weights)
    for name, tensor in load_file(undisturbed / school.weights.relative_to(school.folder)).items():
        assert (together[name] == tensor).all(), name


def test_a_stopped_daemon_deletes_the_job_whose_trainer_leaves_a_checkpoint_to_the_next(school: School) -> None:
    with school.daemon() as daemon:
        school.trains_past(2)
        daemon.terminate()
        school.ends(daemon)
    assert (school.cluster.jobs, school.cluster.pods) == ({}, {})
    assert "training stopped at step" in school.said
    stopped = school.progress
    assert stopped.phase is Phase.STOPPED

    with school.daemon() as daemon:
        ended = school.ends(daemon)

    assert ended.state is RunState.EVALUATING, ended.reason
    assert school.progress.first_step == stopped.step
    assert "failed_attempts" not in ended.progress
    assert len(school.cluster.created) == 2


def test_a_run_that_is_ended_takes_its_job_with_it(school: School) -> None:
    with school.daemon():
        school.trains_past(0)
        trainer = school.cluster._processes[school.cluster.pod["metadata"]["name"]]
        school.store.runs.failed(school.run.id, reason="a report of it was erased")
        wait_until(lambda: "was ended during the training" in school.said, "the end", seconds=WAIT_S)
    assert (school.cluster.jobs, school.cluster.pods) == ({}, {})
    assert trainer.poll() is not None
    assert not school.weights.exists()
