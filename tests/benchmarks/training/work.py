"""The same examples for every trainer, and the job of ours."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.examples import Example, ExampleKind, to_jsonl
from daemon.artifacts.files import sha256_file
from daemon.artifacts.run_folder import JOB_FILE, MANIFEST_FILE, REPLAY_FILE, TRAIN_FILE, DatasetFile, DatasetManifest
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.config.training import TrainingConfig
from daemon.training.batches import TrainingSet
from daemon.training.job import TrainingJob

WORDS = (
    "river", "bridge", "castle", "garden", "window", "letter", "market", "summer", "engine", "valley", "island",
    "orange", "silver", "planet", "forest", "harbour",
)  # fmt: skip
RECIPE = "sft"


def corrections(count: int, *, seed: int = 1, words: tuple[int, int] = (8, 90)) -> list[Example]:
    """Flagged prompts of different lengths, as users write them, with corrected answers of a tenth to all of that."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        length = round(words[0] * (words[1] / words[0]) ** draw.random())  # many short ones, a few long ones
        prompt, answer = (" ".join(draw.choices(WORDS, k=many)) for many in (length, draw.randint(4, 12 + length // 3)))
        messages = ({"role": "user", "content": f"{number}: {prompt}?"},)
        found.append(Example(messages=messages, completion=answer, kind=ExampleKind.CORRECTION, report_id=f"r{number}"))
    return found


def taught(count: int, *, seed: int = 1) -> list[Example]:
    """The same for a teacher that does not see the first half of the prompt, as in the recipe `consistency`."""
    return [_taught(one) for one in corrections(count, seed=seed, words=(2, 16))]


def _taught(one: Example) -> Example:
    text = str(one.messages[0]["content"])
    shown = ({"role": "user", "content": text[len(text) // 2 :]},)
    return replace(one, kind=ExampleKind.TAUGHT, teacher_messages=shown, early=True)


def make_job(folder: Path, model: Path, **training: Any) -> TrainingJob:
    """A job whose run folder exists. Without dropout, so that two runs can be compared."""
    run_folder = folder / "run"
    run_folder.mkdir(parents=True, exist_ok=True)
    return TrainingJob(
        run_id=1,
        generation=1,
        name="bench-g000001",
        recipe=RECIPE,
        seed=1,
        run_folder=run_folder,
        adapters_dir=folder / "adapters",
        model_path=model,
        base_fingerprint=base_fingerprint(model),
        training=TrainingConfig(**{"dropout": 0.0, "epochs": 1, "checkpoint_every_steps": 10_000, **training}),
    )


def encoded(job: TrainingJob, examples: Sequence[Example]) -> tuple[TrainingSet, int]:
    """The examples as the trainer reads them, and the id of the padding token."""
    tokenizer = load_tokenizer(job.model_path)
    template = ChatTemplate(tokenizer, job.chat)
    return TrainingSet.build(template, examples, job.training, seed=job.seed), tokenizer.eos_token_id


def write_dataset(job: TrainingJob, examples: Sequence[Example]) -> Path:
    """The run folder as the dataset stage leaves it; returns the path of the job for the training child."""
    for name, content in ((TRAIN_FILE, to_jsonl(examples)), (REPLAY_FILE, b"")):
        (job.run_folder / name).write_bytes(content)
    ids = tuple(sorted({one.report_id for one in examples if one.report_id is not None}))
    files = {
        name: DatasetFile(sha256=sha256_file(job.run_folder / name), lines=lines, report_ids=of)
        for name, lines, of in ((TRAIN_FILE, len(examples), ids), (REPLAY_FILE, 0, ()))
    }
    manifest = DatasetManifest(
        run_id=job.run_id,
        run_created_at=datetime.now(UTC),
        generation=job.generation,
        recipe=job.recipe,
        seed=job.seed,
        base_fingerprint=job.base_fingerprint,
        files=files,
        items=(),
        examples={ExampleKind.CORRECTION.value: len(examples)},
        left_out={},
    )
    (job.run_folder / MANIFEST_FILE).write_bytes(manifest.encode())
    path = job.run_folder / JOB_FILE
    path.write_text(job.model_dump_json(indent=2))
    return path
