"""Useful tokens (prompt and completion, no padding) per second and per CPU-second, of our trainer and of TRL's.

Both train the same examples on the same model with the same LoRA, in this process. The first steps warm up and do not
count: memory is allocated there, and kernels are chosen.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from daemon.artifacts.examples import Example
from daemon.chat.tokenizer import load_tokenizer
from daemon.runtime.child import StopSignal
from daemon.training import lora
from daemon.training.base_model import load_base, on_cpu
from daemon.training.batches import TrainingSet
from daemon.training.job import TrainingJob
from tests.benchmarks.training.shapes import fill
from tests.benchmarks.training.work import encoded

WARM_STEPS = 1
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "length grouping": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
    "packing": {"gradient_checkpointing": False, "packing": True},
}
"""Beside TRL's own defaults, two settings that its documentation recommends for speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """`losses`: one per step, in nats per token; those of two trainers weigh examples differently."""

    tokens: int
    seconds: float
    cpu_seconds: float
    memory_gib: float
    losses: list[float]

    @property
    def per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.tokens / self.cpu_seconds


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Reads the clocks at the end of every step."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append((time.monotonic(), time.process_time()))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])

    def speed(self, tokens: Sequence[int]) -> Speed:
        """`tokens` of each step."""
        warm = WARM_STEPS
        (started, cpu), (ended, cpu_after) = self.ends[warm - 1], self.ends[-1]
        return Speed(
            tokens=sum(tokens[warm : len(self.ends)]),
            seconds=ended - started,
            cpu_seconds=cpu_after - cpu,
            memory_gib=_peak_memory() / 2**30,
            losses=self.losses,
        )


def ours(job: TrainingJob, examples: Sequence[Example], *, random_weights: bool) -> Speed:
    _forget_memory()
    training_set, pad_id = encoded(job, examples)
    run = lora.TrainingRun(job, training_set, checkpoints=job.run_folder / "checkpoints", pad_id=pad_id)
    if random_weights:
        fill(run._model)
    clock = _Clock()
    run._trainer.add_callback(clock)
    run.run(resume=None, stop=StopSignal())
    tokens = [sum(len(training_set.encoded[index]) for index in step) for step in run.training_set.plan]
    return clock.speed(tokens)


def trl(job: TrainingJob, examples: Sequence[Example], setting: str, *, random_weights: bool) -> Speed:
    """TRL's SFTTrainer on the same token ids, for about as many tokens as the plan of our trainer has."""
    from datasets import Dataset  # noqa: PLC0415 - TRL is optional here
    from datasets.table import InMemoryTable  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    _forget_memory()
    training_set, _ = encoded(job, examples)
    rows = {
        "input_ids": [[*one.prompt, *one.completion] for one in training_set.encoded],
        "completion_mask": [[0] * len(one.prompt) + [1] * len(one.completion) for one in training_set.encoded],
    }
    # with a fingerprint: datasets 5.2 cannot compute one with pyarrow 26
    dataset = Dataset(InMemoryTable.from_pydict(rows), fingerprint=job.base_fingerprint[:16])
    config = job.training
    lora.set_threads_and_seed(job)
    model = load_base(job)
    if random_weights:
        fill(model)
    settings = {**_batches(job, training_set, setting), **TRL_SETTINGS[setting]}
    arguments = SFTConfig(
        output_dir=str(job.run_folder / "trl"),
        learning_rate=config.learning_rate,
        num_train_epochs=1,
        max_length=config.max_sequence_tokens,
        bf16=model.dtype == torch.bfloat16,
        use_cpu=on_cpu(config),
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=job.seed,
        **settings,
    )
    trainer = SFTTrainer(
        model=lora.with_adapter(model, job), args=arguments, train_dataset=dataset,
        processing_class=load_tokenizer(job.model_path),
    )  # fmt: skip
    tokens: list[int] = []
    trainer.data_collator = _counting(trainer.data_collator, tokens)
    clock = _Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    return clock.speed(tokens)


def _batches(job: TrainingJob, training_set: TrainingSet, setting: str) -> dict[str, int]:
    """Steps of about as many tokens as ours; the default keeps its own eight examples."""
    if setting == "default":
        return {}
    mean = sum(len(one) for one in training_set.encoded) / len(training_set.encoded)
    if setting == "packing":
        mean = job.training.max_sequence_tokens
    return {"per_device_train_batch_size": max(1, round(job.training.batch_tokens / mean))}


_Collator = Callable[[list[Any]], dict[str, Any]]


def _counting(collator: _Collator, tokens: list[int]) -> _Collator:
    """The same batches; `tokens` gets the number of each without padding."""

    def collate(rows: list[Any]) -> dict[str, Any]:
        batch = collator(rows)
        mask = batch.get("attention_mask")
        tokens.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
        return batch

    return collate


def _forget_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_memory() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
