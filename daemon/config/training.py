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
    """Words put before the training command, e.g. ["torchrun", "--no-python", "--nproc-per-node", "4"]."""
    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.05
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    epochs: Annotated[float, Field(gt=0)] = 3.0
    max_tokens: Positive | None = None
    """Training ends after so many tokens (prompt and completion) even where epochs are left; None: no bound."""
    replay_loss: Literal["kl", "cross-entropy"] = "kl"
    """What keeps ordinary answers: the divergence from the base model's distribution, or its answers as targets."""
    kl_weight: Annotated[float, Field(gt=0)] = 2.0
    """With `kl`: what a replayed answer counts beside a trained one."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup_ratio: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_tokens: Positive = 2048
    max_sequence_tokens: Positive = 1024
    gradient_checkpointing: bool = False
    checkpoint_every_steps: Positive = 10
    threads: Positive | None = None
    """CPU threads of the trainer; None lets torch choose. One is right beside a server on the same CPU."""
    max_attempts: Positive = 3
    timeout_s: Seconds = 14_400.0
