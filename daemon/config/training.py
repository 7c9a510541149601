"""Section `training`: LoRA, optimiser and launcher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from daemon.config.section import Fraction, Positive, Seconds, Section


class TrainingConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    quantization: Literal["none", "4bit", "8bit"] = "none"
    launcher: list[str] = []
    """Prefix of the training command, e.g. ["torchrun", "--standalone", "--no-python", "--nproc-per-node", "4"].

    The processes divide the examples of each step. Empty: one process, on the first visible GPU.
    """
    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.05
    target_modules: Literal["auto"] | Annotated[list[str], Field(min_length=1)] = "auto"
    """Layers that get an adapter; auto: those of attention and MLP that both the trainer and vLLM can hold."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    max_tokens: Positive | None = None
    """Maximum number of tokens (prompt and completion); training then ends before the last epoch. None: no limit."""
    replay_loss: Literal["kl", "cross-entropy"] = "kl"
    """Loss on ordinary pairs: divergence from the base model's distribution, or its answers as targets."""
    kl_weight: Annotated[float, Field(gt=0)] = 2.0
    """With `kl`: weight of a replayed answer relative to a trained one."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup_ratio: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Positive = 2048
    max_sequence_tokens: Positive = 1024
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 10
    threads: Positive | None = None
    """CPU threads of the trainer; None: torch decides. Use 1 if a server runs on the same CPU."""
    max_attempts: Positive = 3
    timeout_s: Seconds = 14_400.0
