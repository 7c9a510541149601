"""Stands before the trainer's command: a training on the same examples with the same settings is done only once.

`python -m tests.benchmarks.poison.kept_training FOLDER python -m daemon.training.trainer JOB.json`
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from daemon.artifacts import adapter as artifact
from daemon.artifacts.run_folder import REPLAY_FILE, TRAIN_FILE
from daemon.training import trainer
from daemon.training.job import Phase, TrainingJob, TrainingProgress

FACTS = "kept.json"
"""The manifest of the adapter that was trained, beside its weights."""


class Kept:
    """A finished training whose weights lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = artifact.Manifest.model_validate_json((folder / FACTS).read_bytes())
        lineage = manifest.lineage
        self.training_set: Any = SimpleNamespace(
            report_ids=lineage.report_ids, plan=range(lineage.steps), left_out_reports=lineage.left_out
        )
        self.drift = {"kl_to_base": lineage.kl_to_base}
        self.hindsight_advantage = lineage.hindsight_advantage

    def save(self, folder: Path) -> None:
        for path in self._folder.iterdir():
            if path.name != FACTS:
                shutil.copy(path, folder)


def key_of(job: TrainingJob) -> str:
    """The same for the same examples, in whatever order and by whomever they were reported."""
    lines = [sorted((job.run_folder / name).read_text().splitlines()) for name in (TRAIN_FILE, REPLAY_FILE)]
    settings = job.training.model_dump(mode="json", exclude={"launcher", "threads"})
    about = [lines, settings, job.recipe, job.seed, job.base_fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def keep(job: TrainingJob, folder: Path) -> None:
    """Copy the weights of a published adapter, and what its manifest says of the training."""
    shutil.copytree(job.adapter_folder, folder, dirs_exist_ok=True)
    (folder / artifact.MANIFEST_FILE).rename(folder / FACTS)


def main() -> int:
    kept, *_, path = sys.argv[1:]
    job = TrainingJob.load(Path(path))
    folder = Path(kept) / key_of(job)
    if (folder / FACTS).exists():
        trainer.publish_adapter(job, Kept(folder))
        TrainingProgress(phase=Phase.DONE).save(job.run_folder)
        return 0
    sys.argv = [sys.argv[0], path]
    code = trainer.main()
    if code == 0 and job.adapter_folder.exists():
        keep(job, folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
