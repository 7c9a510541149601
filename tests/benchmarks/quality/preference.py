"""The peer from preference training, on (corrected, flagged) pairs; started as a launcher of `daemon.training.trainer`.

Direct preference optimisation (arXiv 2305.18290, by TRL) stands in for RLHF, the baseline of the paper: both push the
flagged answer down, which erratad's own recipes never do. Job and adapter folder are those of the trainer, whose
command line ends with the path of the job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from daemon.chat.tokenizer import load_tokenizer
from daemon.errors import TrainingError
from daemon.training import lora
from daemon.training.base_model import load_base
from daemon.training.job import TrainingJob
from daemon.training.trainer import publish_adapter
from tests.benchmarks.quality.cells import PAIRS_FILE

BETA = 0.1
PAIRS_PER_STEP = 2
TOKENS_LIMIT = 512


class PreferenceFit:
    """One training; `steps` fill the job's token budget, both answers of a pair counted."""

    training_set: Any
    drift: Mapping[str, Any] = {}
    hindsight_advantage = None

    def __init__(self, job: TrainingJob, rows: list[dict[str, Any]]) -> None:
        budget = job.training.max_tokens
        if budget is None:
            raise TrainingError("preference training needs training.max_tokens")
        lora.set_threads_and_seed(job)
        tokenizer = load_tokenizer(job.model_path)
        tokens = [
            sum(_length(tokenizer, [*row["prompt"], *row[side]]) for side in ("chosen", "rejected")) for row in rows
        ]
        self.steps = max(1, round(budget / (PAIRS_PER_STEP * sum(tokens) / len(tokens))))
        self._job = job
        self._model = lora.with_adapter(load_base(job), job)
        self._trainer = DPOTrainer(
            model=self._model,
            args=DPOConfig(
                output_dir=str(job.run_folder / "dpo"),
                max_steps=self.steps,
                per_device_train_batch_size=PAIRS_PER_STEP,
                learning_rate=job.training.learning_rate,
                beta=BETA,
                max_length=TOKENS_LIMIT,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_steps=1,
                seed=job.seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    def run(self) -> None:
        self._trainer.train()

    def save(self, folder: Path) -> None:
        lora.save_adapter(self._model, self._job, folder)


def _length(tokenizer: Any, messages: list[dict[str, str]]) -> int:
    return len(
        tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
    )


def main() -> None:
    job = TrainingJob.load(Path(sys.argv[-1]))
    lines = (job.run_folder / PAIRS_FILE).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    fit = PreferenceFit(job, [{side: row[side] for side in ("prompt", "chosen", "rejected")} for row in rows])
    fit.run()
    fit.training_set = SimpleNamespace(
        report_ids=tuple(sorted(row["id"] for row in rows)), plan=((),) * fit.steps, left_out_reports={}
    )
    publish_adapter(job, fit)


if __name__ == "__main__":
    main()
