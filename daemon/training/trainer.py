"""The training child: `python -m daemon.training.trainer JOB.json` turns one job into one adapter folder.

It can be killed at any time. The next start resumes from the last complete checkpoint, with the same batches in the
same order. The adapter folder appears by a single rename. On SIGTERM the child writes a checkpoint and exits.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from daemon.artifacts import adapter as artifact
from daemon.artifacts import files
from daemon.artifacts.examples import read_examples
from daemon.artifacts.run_folder import MANIFEST_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.chat.template import ChatTemplate
from daemon.errors import AdapterInvalidError, ConfigError, DatasetError, TrainingError
from daemon.runtime.child import Stop, StopSignal, die_with_the_daemon
from daemon.training.batches import TrainingSet
from daemon.training.job import (
    CHECKPOINTS,
    COMPLETE_MARK,
    EXIT_BUSY,
    EXIT_REFUSED,
    EXIT_STOPPED,
    TEACHER,
    Phase,
    TrainingJob,
    TrainingProgress,
    run_lock,
)


def main() -> int:
    job = TrainingJob.load(Path(sys.argv[1]))
    die_with_the_daemon()
    return work(job)


def work(job: TrainingJob, stop: Callable[[], Stop] = StopSignal) -> int:
    """Train under the run's lock; the exit code. A refusal is written into the progress file."""
    # the lock of rank 0 also covers the other ranks
    with run_lock(job.run_folder) if _is_main_process() else nullcontext(enter_result=True) as locked:
        if not locked:
            print(f"another process is training run {job.run_id}", file=sys.stderr)  # noqa: T201 - stderr is the run's log
            return EXIT_BUSY
        try:
            finished = train(job, stop)
        except (TrainingError, DatasetError, ConfigError, AdapterInvalidError) as exc:
            progress = TrainingProgress.load(job.run_folder)
            progress.model_copy(update={"phase": Phase.REFUSED, "reason": str(exc)}).save(job.run_folder)
            print(f"refused: {exc}", file=sys.stderr)  # noqa: T201
            return EXIT_REFUSED
    return 0 if finished else EXIT_STOPPED


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"  # set by torchrun


def train(job: TrainingJob, stop: Callable[[], Stop] = StopSignal) -> bool:
    """Train the adapter of the job and publish it. False if it ended early on a stop, with a checkpoint.

    Until `stop` is made, after the model is loaded, SIGTERM ends the process at once.

    Raises:
        ErratadError: if the job cannot be trained.
    """
    manifest = load_manifest(job.run_folder)
    if manifest.base_fingerprint != job.base_fingerprint:
        raise TrainingError("the base model changed after the dataset was written; start a new run")
    examples = [*read_examples(job.run_folder / TRAIN_FILE), *read_examples(job.run_folder / REPLAY_FILE)]
    print(f"modules: {', '.join(job.target_modules)} of {job.layers.architecture}")  # noqa: T201 - the log
    checkpoints = job.run_folder / CHECKPOINTS
    resume = last_checkpoint(checkpoints)

    # importing torch takes seconds: check lock and data first
    from daemon.chat.tokenizer import load_tokenizer  # noqa: PLC0415
    from daemon.training import lora  # noqa: PLC0415

    tokenizer = load_tokenizer(job.model_path, trust_remote_code=job.trust_remote_code)
    training_set = TrainingSet.build(
        ChatTemplate(tokenizer, job.chat),
        examples,
        job.training,
        seed=job.seed,
        replay_per_epoch=manifest.replay_per_epoch,
    )
    training = lora.TrainingRun(job, training_set, checkpoints=checkpoints, pad_id=tokenizer.eos_token_id)
    finished = training.run(resume=resume, stop=stop())
    if not finished or not training.is_main_process:
        return finished
    publish_adapter(job, training)
    for folder in (
        checkpoints,
        job.run_folder / TEACHER,
    ):  # only now: until the adapter is published, a restart needs them
        shutil.rmtree(folder, ignore_errors=True)
    training.progress.model_copy(update={"phase": Phase.DONE, "eta_s": 0.0}).save(job.run_folder)
    return True


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest complete checkpoint, or None. Newer incomplete ones (interrupted by a kill) are deleted by rank 0."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        if (checkpoint / COMPLETE_MARK).exists():
            return checkpoint
        if _is_main_process():
            shutil.rmtree(checkpoint)
    return None


class FinishedTraining(Protocol):
    """A finished training with weights to save."""

    training_set: TrainingSet
    """The steps that were made."""
    drift: Mapping[str, Any]
    """Fields of the lineage: how far the model is from the base model; empty if not measured."""
    hindsight_advantage: float | None

    def save(self, folder: Path) -> None:
        """Write the weights and the configuration of peft."""
        ...


def publish_adapter(job: TrainingJob, training: FinishedTraining) -> None:
    """Write and verify the adapter in a temporary folder, then rename it to the adapter folder.

    Raises:
        AdapterInvalidError: if the trained weights are not usable.
    """
    dataset = load_manifest(job.run_folder)
    folder = files.fresh_partial(job.adapter_folder)
    training.save(folder)
    manifest = artifact.Manifest(
        name=job.name,
        generation=job.generation,
        run_id=job.run_id,
        base_fingerprint=job.base_fingerprint,
        rank=job.training.rank,
        target_modules=tuple(sorted(job.target_modules)),
        files={path.name: files.sha256_file(path) for path in sorted(folder.iterdir())},
        lineage=artifact.Lineage(
            report_ids=training.training_set.report_ids,
            dataset_sha256=files.sha256_file(job.run_folder / MANIFEST_FILE),
            recipe=job.recipe,
            recipes=dataset.recipes,
            flips=dataset.flips,
            hindsight_advantage=training.hindsight_advantage,
            seed=job.seed,
            steps=len(training.training_set.plan),
            left_out=training.training_set.left_out_reports,
            **training.drift,
            examples=dataset.examples,
        ),
    )
    (folder / artifact.MANIFEST_FILE).write_bytes(manifest.encode())
    artifact.verify(
        folder,
        name=job.name,
        base_fingerprint=job.base_fingerprint,
        max_rank=job.training.rank,
        target_modules=job.target_modules,
        model_path=job.model_path,
    )
    files.publish(folder, job.adapter_folder)


if __name__ == "__main__":
    sys.exit(main())
