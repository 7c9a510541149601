"""LoRA training with peft and the Trainer of transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import connectors.torch_extras  # noqa: F401  # isort: skip - before transformers looks for them
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from daemon.artifacts import adapter as artifact
from daemon.artifacts import files
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError
from daemon.labels import LeftOut
from daemon.runtime.child import Stop
from daemon.training.base_model import load_base, on_cpu
from daemon.training.batches import TrainingSet
from daemon.training.collator import Collator
from daemon.training.drift import Drift
from daemon.training.job import COMPLETE_MARK, ENDED_EARLY, TEACHER, Phase, TrainingJob, TrainingProgress, ended_early
from daemon.training.losses import Batch, batch_loss, log_probs
from daemon.training.teacher import TeacherCache, kept_tokens

_KEPT_CHECKPOINTS = 2
"""A kill may leave the newest checkpoint incomplete; then the previous one is used."""


class TrainingRun:
    """One training: the model with its adapter, the Trainer and the progress."""

    def __init__(self, job: TrainingJob, training_set: TrainingSet, *, checkpoints: Path, pad_id: int) -> None:
        config = job.training
        set_threads_and_seed(job)
        self._job = job
        self._pad_id = pad_id
        self._model = with_adapter(load_base(job), job)
        self.training_set = training_set
        self.progress = TrainingProgress(phase=Phase.LOADING)
        self.drift: Mapping[str, Any] = {}
        self.hindsight_advantage: float | None = None
        arguments = _arguments(config, self._model, seed=job.seed, checkpoints=checkpoints)
        if arguments.device.type == "cuda" and arguments.world_size < torch.cuda.device_count():
            print(f"GPUs: {torch.cuda.device_count()} visible, {arguments.world_size} used; see training.launcher")  # noqa: T201 - the log
        self._trainer = _CompletionTrainer(
            alpha=config.distillation.alpha,
            ratio_limit=config.distillation.ratio_limit,
            model=self._model,
            args=arguments,
        )
        self._trainer.remove_callback(PrinterCallback)
        self._prepare(training_set, None)

    def _prepare(self, training_set: TrainingSet, teacher: TeacherCache | None) -> None:
        """What will be trained, in which steps."""
        self.training_set = training_set
        arguments, steps = self._trainer.args, len(training_set.plan)
        arguments.max_steps = steps
        arguments.warmup_steps = int(
            self._job.training.warmup_ratio * steps
        )  # rounded down: the first one learns nothing
        self._trainer.train_dataset = training_set.shares(arguments.world_size)
        self._trainer.data_collator = Collator(self._pad_id, teacher)
        self._drift = Drift(training_set, seed=self._job.seed, pad_id=self._pad_id)

    @property
    def steps(self) -> int:
        return len(self.training_set.plan)

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

    def run(self, *, resume: Path | None, stop: Stop) -> bool:
        """Train to the end. False if `stop` was set earlier; then a checkpoint was written.

        Raises:
            TrainingError: if the loss or the gradient norm is not finite, or the teacher leaves nothing to learn.
        """
        if not self._ask_teacher(stop):
            return self._stopped()
        self.progress = TrainingProgress(
            phase=Phase.TRAINING,
            steps=self.steps,
            skipped=self.training_set.skipped,
            left_out=self.training_set.left_out,
            hindsight_advantage=self.hindsight_advantage,
        )
        if resume is not None and ended_early(resume):
            self._trainer._load_from_checkpoint(str(resume))  # noqa: SLF001 - no public way; a changed one fails a test
            self.training_set = self.training_set.first(int(resume.name.rpartition("-")[2]))
        else:
            tokens = [sum(len(self.training_set.encoded[index]) for index in batch) for batch in self.training_set.plan]
            callback = _ProgressCallback(self, stop, self._job.run_folder, tokens)
            self._trainer.add_callback(callback)
            # products cast to half precision anyway; peft would first copy every input to float32
            mixed = self._trainer.args.bf16 or self._trainer.args.fp16
            with disable_input_dtype_casting(self._model, active=mixed):
                self._trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
            made = int(self._trainer.state.global_step)
            if made < self.steps and not callback.ended_early:
                return self._stopped()
            self.training_set = self.training_set.first(made)
        if self.is_main_process:
            self._measure_drift(*self._job.training.strengths)
        self.progress = self.progress.model_copy(update={"step": self.steps})
        return True

    def _measure_drift(self, *strengths: float) -> float | None:
        """Measure the distance from the base model; the result is KL(base || trained), None without lessons."""
        found = self._drift.measure(self._model, batch_tokens=self._job.training.batch_tokens, strengths=strengths)
        if not found:
            return None
        trained = found[0]
        self.drift = {
            "kl_to_base": trained.kl,
            "kl_by_strength": {str(strength): one.kl for strength, one in zip(strengths, found, strict=True)},
            "entropy": trained.entropy,
            "base_entropy": trained.base_entropy,
        }
        self.progress = self.progress.model_copy(update={"kl_to_base": trained.kl, "entropy": trained.entropy})
        return trained.kl

    def too_far(self) -> bool:
        """Whether training must end here. All processes must call this together."""
        limit = self._job.training.distillation.stop_kl
        if limit is None or not self.training_set.taught:
            return False
        far = False
        if self.is_main_process:
            kl_to_base = self._measure_drift(1.0)
            far = kl_to_base is not None and kl_to_base > limit
        return self.any_rank(far)

    def _stopped(self) -> bool:
        if self.is_main_process:
            self.progress = self.progress.model_copy(update={"phase": Phase.STOPPED})
            self.progress.save(self._job.run_folder)
        return False

    def _ask_teacher(self, stop: Stop) -> bool:
        """Compute or read what the teacher expects; leave out complaints that change nothing. False if stopped."""
        taught = self.training_set.taught
        if not taught:
            return True
        self.progress = TrainingProgress(phase=Phase.TEACHER)
        if self.is_main_process:
            self.progress.save(self._job.run_folder)
        config, arguments = self._job.training, self._trainer.args
        top = kept_tokens(
            taught,
            vocabulary=int(self._model.get_output_embeddings().weight.shape[0]),
            on_cpu=arguments.device.type == "cpu",
            cache_bytes=config.distillation.cache_bytes,
            top=config.distillation.top_tokens,
        )
        cache = TeacherCache(self._job.run_folder / TEACHER, taught, batch_tokens=config.batch_tokens, top=top)
        rank, ranks = arguments.process_index, arguments.world_size
        filled = cache.fill(self._model, pad_id=self._pad_id, stop=stop, rank=rank, ranks=ranks)
        if self.any_rank(not filled):
            return False
        self.wait_for_all_ranks()
        self.hindsight_advantage = cache.mean_blame
        weak = cache.without_blame(config.distillation.hindsight_floor)
        self._prepare(self.training_set.without(weak, LeftOut.WEAK_COMPLAINT), cache)
        return True

    def save(self, folder: Path) -> None:
        """Save the adapter in peft's format, in float32."""
        save_adapter(self._model, self._job, folder)


class _CompletionTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Cross-entropy on completions, or a divergence from the base model (`daemon.training.losses`).

    Divergence from the base model under the same prompt, for replay, is 0 before the first step and only pulls the
    model back (learning without forgetting, arXiv 1606.09282). Cross-entropy on a few answers of the model itself would
    instead sharpen its distribution around them.

    Every example has its weight independent of its length. An analysis is about four times as long as a corrected
    answer; weighted by tokens, the corrected answers would hardly be learned.

    With several processes each one has a share of the step's examples. The mean over all of them is the step's loss,
    whatever the number of processes.
    """

    def __init__(self, *, alpha: float, ratio_limit: float, **options: Any) -> None:
        super().__init__(**options)
        self._alpha = alpha
        self._ratio_limit = ratio_limit

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
        batch = Batch.take(inputs)
        outputs = model(**inputs)
        loss = batch_loss(
            outputs.logits[:, :-1].float(),
            batch,
            alpha=self._alpha,
            ratio_limit=self._ratio_limit,
            base=lambda mask: self._base_log_probs(model, inputs, mask),
        )
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
        return log_probs(logits[mask[rows]])


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Reports every step, stops on request or if a figure is not finite, and marks complete checkpoints."""

    def __init__(self, run: TrainingRun, stop: Stop, run_folder: Path, step_tokens: list[int]) -> None:
        self._run = run
        self._stop = stop
        self._run_folder = run_folder
        self._step_tokens = step_tokens
        self._first_step = 0
        self._started = 0.0
        self.ended_early = False
        """Whether the training ended before its last step because the model is too far from the base model."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._first_step, self._started = state.global_step, time.monotonic()
        self._report(first_step=state.global_step, step=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # the signal reaches the processes at different times; one that stopped alone would leave the others waiting
        if state.global_step >= state.max_steps:
            return
        if state.global_step % args.save_steps == 0:
            self.ended_early = self._run.too_far()
        if self._run.any_rank(self._stop.is_set()) or self.ended_early:
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
        files.write_atomically(checkpoint / COMPLETE_MARK, ENDED_EARLY if self.ended_early else b"")

    def _report(self, **figures: float) -> None:
        if self._run.is_main_process:
            self._run.progress = self._run.progress.model_copy(update=figures)
            self._run.progress.save(self._run_folder)


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


def _arguments(config: TrainingConfig, model: Any, *, seed: int, checkpoints: Path) -> Any:
    """All but the number of steps, which is known later."""
    return _OneGpuEach(
        output_dir=str(checkpoints),
        per_device_train_batch_size=1,  # an item is all that a process trains in a step
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
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
