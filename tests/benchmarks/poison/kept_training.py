"""Stands before the trainer's command: a training on the same examples with the same settings is done only once.

`python -m tests.benchmarks.poison.kept_training FOLDER python -m daemon.training.trainer JOB.json`
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from daemon.artifacts import adapter as artifact
from daemon.artifacts.run_folder import REPLAY_FILE, TRAIN_FILE
from daemon.training import trainer
from daemon.training.job import Phase, TrainingJob, TrainingProgress

FACTS = "kept.json"
"""Beside the weights: what the manifest says of the training."""
NOT_KEPT = frozenset({artifact.MANIFEST_FILE})


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished training whose weights lie in a folder."""

    folder: Path
    steps: int

    def save(self, folder: Path) -> None:
        for path in self.folder.iterdir():
            if path.name != FACTS:
                shutil.copy(path, folder)


def key_of(job: TrainingJob) -> str:
    """The same for the same examples, in whatever order and by whomever they were reported."""
    lines = [sorted((job.run_folder / name).read_text().splitlines()) for name in (TRAIN_FILE, REPLAY_FILE)]
    settings = job.training.model_dump(mode="json", exclude={"launcher", "threads"})
    about = [lines, settings, job.recipe, job.seed, job.base_fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def keep(job: TrainingJob, folder: Path) -> None:
    """Copy the weights of a published adapter."""
    manifest = artifact.Manifest.model_validate_json((job.adapter_folder / artifact.MANIFEST_FILE).read_bytes())
    shutil.copytree(job.adapter_folder, folder, ignore=shutil.ignore_patterns(*NOT_KEPT), dirs_exist_ok=True)
    facts = {"steps": manifest.lineage.steps, "report_ids": manifest.lineage.report_ids}
    (folder / FACTS).write_text(json.dumps(facts))


def main() -> int:
    kept, *_, path = sys.argv[1:]
    job = TrainingJob.load(Path(path))
    folder = Path(kept) / key_of(job)
    if (folder / FACTS).exists():
        facts = json.loads((folder / FACTS).read_text())
        trainer.publish_adapter(job, Kept(folder, facts["steps"]), tuple(facts["report_ids"]))
        TrainingProgress(phase=Phase.DONE).save(job.run_folder)
        return 0
    sys.argv = [sys.argv[0], path]
    code = trainer.main()
    if code == 0 and job.adapter_folder.exists():
        keep(job, folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
