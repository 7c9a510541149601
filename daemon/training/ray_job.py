"""The job on the Ray cluster: `python -m daemon.training.ray_job JOB.json SETTINGS` runs the trainer in its workers.

Each worker of Ray Train is one process of the trainer, as each process of `torchrun` is. A worker that dies ends the
job; the daemon then starts the next one, which goes on from the checkpoint.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from daemon.config.training import RayConfig
from daemon.training.job import EXIT_STOPPED, STOP_FILE, TrainingJob, run_lock
from daemon.training.trainer import work

LOCK_TIMEOUT_S = 120.0
"""Workers of a job that was killed live on until the cluster notices."""
STORAGE = "ray"
"""Folder of Ray Train's own state in the run folder."""


class StopFile:
    """The stop request that the daemon writes into the run folder."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / STOP_FILE

    def is_set(self) -> bool:
        return self._path.exists()


def main() -> None:
    from ray.train import RunConfig, ScalingConfig  # noqa: PLC0415 - only the cluster has it
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    job, settings = TrainingJob.load(Path(sys.argv[1])), RayConfig.model_validate_json(sys.argv[2])
    gpus = {"GPU": settings.gpus_per_worker} if settings.gpus_per_worker else {}
    TorchTrainer(
        train_in_worker,
        train_loop_config={"job": sys.argv[1]},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": settings.cpus_per_worker, **gpus, **settings.resources_per_worker},
            placement_strategy=settings.placement,
        ),
        run_config=RunConfig(name=job.name, storage_path=str(job.run_folder / STORAGE)),
    ).fit()


def train_in_worker(config: dict[str, Any]) -> None:
    """One process of the trainer.

    Raises:
        RuntimeError: if it refuses, or another trainer holds the run. Ray then ends the other workers.
    """
    import torch  # noqa: PLC0415 - takes seconds

    job = TrainingJob.load(Path(config["job"]))
    if os.environ["RANK"] == "0":
        _wait_for_lock(job.run_folder)
    torch.distributed.barrier()  # all must read the same last checkpoint
    code = work(job, partial(StopFile, job.run_folder))
    if code not in {0, EXIT_STOPPED}:
        raise RuntimeError(f"the trainer ended with code {code}")


def _wait_for_lock(run_folder: Path) -> None:
    """Return when no other trainer holds the run, or LOCK_TIMEOUT_S is over."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while time.monotonic() < deadline:
        with run_lock(run_folder) as free:
            if free:
                return
        time.sleep(1)


if __name__ == "__main__":
    main()
