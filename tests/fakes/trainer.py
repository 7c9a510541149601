"""A launcher that trains nothing: `python -m tests.fakes.trainer python -m daemon.training.trainer JOB.json`.

Lock, life, manifest and publication are the real trainer's; only the weights are random, and come after `SECONDS`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.artifacts.run_folder import TRAIN_FILE, load_manifest
from daemon.training import trainer
from daemon.training.job import Phase, TrainingJob, TrainingProgress
from tests.fixtures.models import write_adapter

SECONDS = 2.0
STEPS = 10


class Trained:
    """What `trainer.publish_adapter` asks of a training: it is its own training set."""

    def __init__(self, job: TrainingJob, report_ids: tuple[str, ...]) -> None:
        self.job = job
        self.report_ids = report_ids
        self.plan = tuple(range(STEPS))
        self.training_set: Any = self
        self.left_out_reports: Mapping[str, Any] = {}
        self.drift: Mapping[str, Any] = {}
        self.hindsight_advantage: float | None = None

    def save(self, folder: Path) -> None:
        write_adapter(folder, seed=self.job.seed, rank=self.job.training.rank)


def train(job: TrainingJob, *_: Any) -> None:
    for step in range(STEPS):
        TrainingProgress(phase=Phase.TRAINING, step=step, steps=STEPS, loss=1.0, tokens=step).save(job.run_folder)
        time.sleep(SECONDS / STEPS)
    files = load_manifest(job.run_folder).files
    trainer.publish_adapter(job, Trained(job, tuple(files[TRAIN_FILE].report_ids)))
    TrainingProgress(phase=Phase.DONE, step=STEPS, steps=STEPS, tokens=STEPS).save(job.run_folder)


if __name__ == "__main__":
    trainer.train = train  # type: ignore[assignment]  # it needs no stop: it has no checkpoint to write
    sys.argv[1:] = sys.argv[-1:]
    sys.exit(trainer.main())
