"""LoRA training with peft and the Trainer of transformers."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from daemon.artifacts import adapter as artifact
from daemon.artifacts import files
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError
from daemon.runtime.child import StopSignal
from daemon.training.base_model import load_base, on_cpu
from daemon.training.batches import IGNORED, Share, TrainingSet, pad
from daemon.training.job import COMPLETE_MARK, Phase, TrainingJob, TrainingProgress

_KEPT_CHECKPOINTS = 2
"""A kill may leave the newest checkpoint incomplete; then the previous one is used."""


class TrainingRun:
    """One training: the model with its adapter, the Trainer and the progress."""

    def __init__(self, job: TrainingJob, training_set: TrainingSet, *, checkpoints: Path, pad_id: int) -> None:
        config = job.training
        set_threads_and_seed(job)
        self._job = job
        self._model = with_adapter(load_base(job), job)
        self.steps = len(training_set.plan)
        self.progress = TrainingProgress(phase=Phase.TRAINING, steps=self.steps, skipped=training_set.skipped)
        arguments = _arguments(config, self._model, steps=self.steps, seed=job.seed, checkpoints=checkpoints)
        if arguments.device.type == "cuda" and arguments.world_size < torch.cuda.device_count():
            print(f"GPUs: {torch.cuda.device_count()} visible, {arguments.world_size} used; see training.launcher")  # noqa: T201 - the log
        self._trainer = _CompletionTrainer(
            kl_weight=config.kl_weight if config.replay_loss == "kl" else 0.0,
            model=self._model,
            args=arguments,
            train_dataset=training_set.shares(arguments.world_size),
            data_collator=_Collator(pad_id),
        )
        self._trainer.remove_callback(PrinterCallback)
        self._step_tokens = [sum(len(training_set.encoded[index]) for index in batch) for batch in training_set.plan]

    @property
    def is_main_process(self) -> bool:
        """Whether this process (rank 0) writes the files."""
        return bool(self._trainer.is_world_process_zero())

    def any_rank(self, flag: bool) -> bool:  # noqa: FBT001 - the one value that is asked about
        """Whether `flag` is set in any process. All processes must call this together."""
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return flag
        return bool(accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), reduction="sum") > 0)

    def wait_for_all_ranks(self) -> None:
        """Return when every process has come here."""
        self._trainer.accelerator.wait_for_everyone()

    def run(self, *, resume: Path | None, stop: StopSignal) -> bool:
        """Train to the end. False if `stop` was set earlier; then a checkpoint was written.

        Raises:
            TrainingError: if the loss or the gradient norm is not finite.
        """
        self._trainer.add_callback(_ProgressCallback(self, stop, self._job.run_folder, self._step_tokens))
        self._trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        finished = int(self._trainer.state.global_step) >= self.steps
        if not finished and self.is_main_process:
            self.progress = self.progress.model_copy(update={"phase": Phase.STOPPED})
            self.progress.save(self._job.run_folder)
        return finished

    def save(self, folder: Path) -> None:
        """Save the adapter in peft's format, in float32."""
        save_adapter(self._model, self._job, folder)


class _CompletionTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Cross-entropy on completions. If `kl_weight` is above 0, replay rows use `kl_weight` times the KL divergence.

    The divergence is measured from the base model. It is 0 before the first step and only pulls the model back
    (learning without forgetting, arXiv 1606.09282). Cross-entropy on a few answers of the model itself would instead
    sharpen its distribution around them.

    Every example has the same weight, independent of its length. An analysis is about four times as long as a corrected
    answer; weighted by tokens, the corrected answers would hardly be learned.

    With several processes each one has a share of the step's examples. The mean over all of them is the step's loss,
    whatever the number of processes.
    """

    def __init__(self, *, kl_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self._kl_weight = kl_weight

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002 - transformers' signature
        num_items_in_batch: Any = None,  # noqa: ARG002 - the loss is averaged over examples, not tokens
    ) -> Any:
        step, total = inputs.pop("step"), inputs.pop("total")
        if step != self.state.global_step:
            # else progress and lineage would name examples that were never trained (transformers issue 24345)
            raise TrainingError(
                f"transformers took the batch of step {step} in step {self.state.global_step}; examples would be left "
                "out: set training.launcher to start one process for each GPU, then start a new run"
            )
        labels, replay = inputs.pop("labels")[:, 1:], inputs.pop("replay")
        outputs = model(**inputs)
        logits, has_loss = outputs.logits[:, :-1].float(), labels != IGNORED
        weight = has_loss / has_loss.sum(dim=1, keepdim=True)  # each example sums to 1
        by_kl = has_loss & (replay & (self._kl_weight > 0))[:, None]
        by_label = has_loss & ~by_kl
        loss = functional.cross_entropy(logits[by_label], labels[by_label], reduction="none") @ weight[by_label]
        if by_kl.any():
            base = self._base_log_probs(model, inputs, by_kl)
            divergence = functional.kl_div(logits[by_kl].log_softmax(-1), base, reduction="none", log_target=True)
            loss = loss + self._kl_weight * (divergence.sum(-1) @ weight[by_kl])
        loss = loss * self.args.world_size / total  # the processes' gradients and losses are averaged later
        return (loss, outputs) if return_outputs else loss

    def _base_log_probs(self, model: Any, inputs: dict[str, Any], mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the base model at the masked positions. Rows without one are not computed.

        Only some processes have such rows, so the model is called without its distributed wrapper: the wrapper makes
        the processes wait for each other.
        """
        rows = mask.any(dim=1)
        chosen = {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        unwrapped = self.accelerator.unwrap_model(model)
        with torch.no_grad(), unwrapped.disable_adapter():
            logits = unwrapped(**chosen).logits[:, :-1].float()
        return logits[mask[rows]].log_softmax(-1)


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Reports every step, stops on request or if a figure is not finite, and marks complete checkpoints."""

    def __init__(self, run: TrainingRun, stop: StopSignal, run_folder: Path, step_tokens: list[int]) -> None:
        self._run = run
        self._stop = stop
        self._run_folder = run_folder
        self._step_tokens = step_tokens
        self._first_step = 0
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._first_step, self._started = state.global_step, time.monotonic()
        self._report(first_step=state.global_step, step=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        # the signal reaches the processes at different times; one that stopped alone would leave the others waiting
        if self._run.any_rank(self._stop.is_set()) and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        if "loss" not in logs:
            return
        for figure in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(figure, 0.0)):
                raise TrainingError(
                    f"{figure} is {logs[figure]} at step {state.global_step} of {state.max_steps}; "
                    "lower training.learning_rate or use another training.dtype, then start a new run"
                )
        tokens = sum(self._step_tokens[self._first_step : state.global_step])
        per_second = tokens / (time.monotonic() - self._started)
        self._report(
            step=state.global_step,
            loss=logs["loss"],
            tokens=tokens,
            tokens_per_s=per_second,
            eta_s=sum(self._step_tokens[state.global_step :]) / per_second,
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._run.wait_for_all_ranks()  # each process writes a file of its own
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for path in checkpoint.iterdir():
            files.sync(path)
        # the mark comes after every file is on disk: it promises a complete checkpoint
        files.write_atomically(checkpoint / COMPLETE_MARK, b"")

    def _report(self, **figures: float) -> None:
        if self._run.is_main_process:
            self._run.progress = self._run.progress.model_copy(update=figures)
            self._run.progress.save(self._run_folder)


class _Collator:
    """Pads one item of the training data: the share of one process in a batch."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, items: list[Share]) -> dict[str, Any]:
        share = items[0]
        padded = {**pad(share.rows, self._pad_id), "step": share.step, "total": share.total}
        return {name: torch.tensor(rows) if isinstance(rows, list) else rows for name, rows in padded.items()}


class _OneGpuEach(TrainingArguments):  # type: ignore[misc]  # transformers has no types
    """One GPU for each process. With more visible, transformers would merge the batches of several steps into one."""

    @property
    def n_gpu(self) -> int:
        return min(1, int(super().n_gpu))


def set_threads_and_seed(job: TrainingJob) -> None:
    """Limit the CPU threads and seed all random generators."""
    if job.training.threads is not None:
        torch.set_num_threads(job.training.threads)
    set_seed(job.seed)


def save_adapter(model: Any, job: TrainingJob, folder: Path) -> None:
    """Save the weights in float32, independent of the training dtype, and the configuration of peft."""
    state = get_peft_model_state_dict(model)
    weights = {key: tensor.detach().to("cpu", torch.float32).contiguous() for key, tensor in state.items()}
    save_file(weights, folder / artifact.WEIGHTS_FILE, metadata={"format": "pt"})
    config = model.peft_config["default"]
    config.inference_mode = True
    config.base_model_name_or_path = job.model_path.name
    config.save_pretrained(str(folder))


def with_adapter(model: Any, job: TrainingJob) -> Any:
    """The model with a new adapter. Adapter weights are float32, independent of the base model's dtype.

    Raises:
        ConfigError: if the modules cannot be trained and served in this model.
    """
    config, layers = job.training, job.layers
    return get_peft_model(
        model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(job.target_modules),
            exclude_modules=layers.excluded,
            task_type="CAUSAL_LM",
        ),
    )


def _arguments(config: TrainingConfig, model: Any, *, steps: int, seed: int, checkpoints: Path) -> Any:
    return _OneGpuEach(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=1,  # an item is all that a process trains in a step
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=int(config.warmup_ratio * steps),  # rounded down: the first warm-up step has a learning rate of 0
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps,
        save_total_limit=_KEPT_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        use_cpu=on_cpu(config),
    )
