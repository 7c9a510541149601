"""Training on a real Ray cluster: two nodes in two networks, a worker on each, daemon and worker killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from daemon.artifacts.adapter import WEIGHTS_FILE
from daemon.records import Run, RunState
from daemon.store import open_store
from daemon.training.job import LOG_FILE
from daemon.training.ray_runner import RayRunner
from daemon.training.remote_runner import Note
from tests.fixtures.ray_cluster import Cluster
from tests.fixtures.remote_training import WAIT_S, RemoteTraining
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG: dict[str, Any] = {"batch_tokens": 160, "dropout": 0.0, "checkpoint_every_steps": 2, "timeout_s": 300.0}
"""Dropout draws differ with the number of processes."""
TOLERANCE = 1e-3
"""Of losses and weights, as in test_finetune_ranks.py."""
NETWORK = {"env_vars": {"GLOO_SOCKET_IFNAME": "cable"}}
"""The nodes' names do not resolve to their addresses, so gloo must be told."""


@dataclass
class School(RemoteTraining):
    """A run that trains on the cluster."""

    cluster: Cluster

    def daemon(self) -> AbstractContextManager[subprocess.Popen[bytes]]:
        settings = {"address": self.cluster.address, "workers": 2, "placement": "STRICT_SPREAD", "runtime_env": NETWORK}
        config = {**CONFIG, "runner": "ray", "ray": settings, "max_attempts": 4}
        return self.stepping(self.cluster.python, config, environment=self.cluster.environment)

    def wait(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < deadline, f"waited too long; the daemon said:\n{self.said[-3000:]}"
            time.sleep(0.05)

    def jobs(self) -> dict[str, str]:
        """The jobs of the run with their states, by attempt."""
        listed = httpx.get(f"{self.cluster.address}/api/jobs/", timeout=60).json()
        own = [job for job in listed if (job["metadata"] or {}).get("run_folder") == self.run.folder]
        return {job["submission_id"]: job["status"] for job in sorted(own, key=lambda job: job["start_time"])}


@pytest.fixture
def school(ray_cluster: Cluster, tmp_path: Path, tiny_model: Path) -> Iterator[School]:
    store = open_store(f"sqlite:///{tmp_path / 'erratad.sqlite3'}")
    run = run_to_train(store, tmp_path, tiny_model)
    yield School(cluster=ray_cluster, folder=tmp_path, model=tiny_model, store=store, run=run)
    store.close()


def _trained_alone(folder: Path, model: Path) -> tuple[Run, Path]:
    store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}")
    run = run_to_train(store, folder, model)
    step_until_trained(store, finetune_stage(store, folder, model, **CONFIG))
    run = store.runs.get(run.id)
    store.close()
    return run, folder / "adapters" / "aligned-g000001" / WEIGHTS_FILE


def _trains_past(school: School, step: int, *, attempt: int) -> Callable[[], bool]:
    folder = Path(school.run.folder)
    return lambda: Note.load(folder / RayRunner.note_file).attempt == attempt and school.progress.step > step


def test_kills_of_daemon_and_worker_end_with_the_weights_of_one_process(
    school: School, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> None:
    folder = Path(school.run.folder)
    with school.daemon() as daemon:
        school.wait(lambda: list(school.jobs().values()) == ["RUNNING"])
        daemon.kill()

    with school.daemon() as daemon:
        school.wait(_trains_past(school, 2, attempt=1))
        assert "training adopted" in school.said
        school.cluster.processes("ray::RayTrainWorker")[0].kill()
        assert daemon.wait(WAIT_S) == 0

    ended = school.store.runs.get(school.run.id)
    assert ended.state is RunState.EVALUATING, ended.reason
    assert list(school.jobs().values()) == ["FAILED", "SUCCEEDED"], school.jobs()
    assert ended.progress["failed_attempts"] == 1
    assert school.progress.first_step >= 2
    assert "aligned-g000001: trains, step " in school.said
    assert (folder / LOG_FILE).read_text().count("modules: ") >= 2
    assert not Note.load(folder / RayRunner.note_file).open
    alone, weights = _trained_alone(tmp_path_factory.mktemp("alone"), tiny_model)
    assert ended.progress["steps"] == alone.progress["steps"]
    assert ended.progress["loss"] == pytest.approx(alone.progress["loss"], rel=TOLERANCE, abs=TOLERANCE)
    together = load_file(school.folder / "adapters" / "aligned-g000001" / WEIGHTS_FILE)
    for name, tensor in load_file(weights).items():
        np.testing.assert_allclose(together[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)
