"""The training child: `python -m daemon.training.trainer JOB.json` turns one job into one adapter folder.

It can be killed at any instant: the next start goes on from the last checkpoint that was written whole, with the same
batches in the same order, and the adapter folder appears by one rename. SIGTERM makes it write a checkpoint first.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

from daemon.artifacts import adapter as artifact
from daemon.artifacts import files as durable
from daemon.artifacts.examples import read_examples
from daemon.artifacts.run_folder import MANIFEST_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.errors import AdapterInvalidError, DatasetError, TrainingError
from daemon.runtime.child import StopSignal, die_with_the_daemon
from daemon.training.batches import TrainingSet
from daemon.training.job import (
    CHECKPOINTS,
    COMPLETE_MARK,
    Phase,
    TrainingJob,
    TrainingProgress,
    run_lock,
)

EXIT_REFUSED = 65
EXIT_BUSY = 75


def main() -> int:
    job = TrainingJob.load(Path(sys.argv[1]))
    die_with_the_daemon()
    leads = os.environ.get("RANK", "0") == "0"  # set by torchrun: the other ranks work under rank 0's lock
    with run_lock(job.run_folder) if leads else nullcontext(enter_result=True) as mine:
        if not mine:
            print(f"another process trains run {job.run_id}", file=sys.stderr)  # noqa: T201 - stderr is the run's log
            return EXIT_BUSY
        try:
            _train(job)
        except (TrainingError, DatasetError, AdapterInvalidError) as exc:
            progress = TrainingProgress.load(job.run_folder)
            progress.model_copy(update={"phase": Phase.REFUSED, "reason": str(exc)}).save(job.run_folder)
            print(f"refused: {exc}", file=sys.stderr)  # noqa: T201
            return EXIT_REFUSED
    return 0


def _train(job: TrainingJob) -> None:
    manifest = load_manifest(job.run_folder)
    if manifest.base_fingerprint != job.base_fingerprint:
        raise TrainingError("the base model changed after the dataset was written; start a new run")
    examples = [*read_examples(job.run_folder / TRAIN_FILE), *read_examples(job.run_folder / REPLAY_FILE)]
    checkpoints = job.run_folder / CHECKPOINTS
    resume = last_checkpoint(checkpoints)

    from daemon.training import lora  # noqa: PLC0415 - torch takes seconds to import: the lock and the data come first

    tokenizer = lora.load_tokenizer(job.model_path)
    training_set = TrainingSet.build(
        tokenizer, examples, job.training, seed=job.seed, replay_per_epoch=manifest.replay_per_epoch
    )
    fit = lora.Fit(job, training_set, checkpoints=checkpoints, pad_id=tokenizer.eos_token_id)
    if not fit.run(resume=resume, stop=StopSignal()) or not fit.leads:
        return
    publish(job, fit, training_set.report_ids)
    shutil.rmtree(checkpoints)
    fit.progress.model_copy(update={"phase": Phase.DONE, "eta_s": 0.0}).save(job.run_folder)


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written whole; one that a kill cut short is removed."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if (checkpoint / COMPLETE_MARK).exists():
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


class Fitted(Protocol):
    """A training that is over."""

    steps: int

    def save(self, folder: Path) -> None:
        """Write weights and peft's configuration."""
        ...


def publish(job: TrainingJob, fit: Fitted, report_ids: tuple[str, ...]) -> None:
    """Make the adapter folder appear, whole and verified.

    Raises:
        AdapterInvalidError: when what was trained is not usable.
    """
    folder = durable.fresh_partial(job.adapter_folder)
    fit.save(folder)
    manifest = artifact.Manifest(
        name=job.name,
        generation=job.generation,
        run_id=job.run_id,
        base_fingerprint=job.base_fingerprint,
        rank=job.training.rank,
        target_modules=tuple(sorted(job.training.target_modules)),
        files={path.name: durable.sha256_file(path) for path in sorted(folder.iterdir())},
        lineage=artifact.Lineage(
            report_ids=report_ids,
            dataset_sha256=durable.sha256_file(job.run_folder / MANIFEST_FILE),
            recipe=job.recipe,
            seed=job.seed,
            steps=fit.steps,
            examples=load_manifest(job.run_folder).examples,
        ),
    )
    (folder / artifact.MANIFEST_FILE).write_bytes(manifest.encode())
    artifact.verify(
        folder,
        name=job.name,
        base_fingerprint=job.base_fingerprint,
        max_rank=job.training.rank,
        target_modules=job.training.target_modules,
    )
    durable.publish(folder, job.adapter_folder)


if __name__ == "__main__":
    sys.exit(main())
