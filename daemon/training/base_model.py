"""Loads the base model with transformers. It imports torch, so only child processes import it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import connectors.torch_extras  # noqa: F401  # isort: skip - before transformers looks for them
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
)

from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError
from daemon.runtime.machine import cpu_has_bfloat16
from daemon.training.job import TrainingJob


def load_config(model_path: Path, *, trust_remote_code: bool) -> Any:
    """The model's configuration. Raises TrainingError if transformers does not know the model."""
    try:
        return AutoConfig.from_pretrained(str(model_path), local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as exc:
        raise TrainingError(f"the base model {model_path} cannot be loaded for training: {exc}") from exc


def model_class(config: Any) -> Any:
    """The class that holds the model with the layers' names that vLLM expects: a multimodal model as a whole."""
    whole = str((config.architectures or [""])[0]).endswith("ForConditionalGeneration")
    return AutoModelForImageTextToText if whole else AutoModelForCausalLM


def on_cpu(config: TrainingConfig) -> bool:
    """Raises TrainingError if the configuration wants a GPU, and torch finds none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("training.device is cuda, but torch finds no GPU; use 'auto' or 'cpu'")
    return config.device == "cpu" or not torch.cuda.is_available()


def load_base(job: TrainingJob) -> Any:
    """The base model, ready for an adapter.

    Raises:
        TrainingError: if the model cannot be loaded, or the device and dtype do not fit this machine.
    """
    from peft import prepare_model_for_kbit_training  # noqa: PLC0415 - takes a second, and others need none of it

    config = job.training
    options: dict[str, Any] = {"dtype": config.dtype, "local_files_only": True}
    if on_cpu(config) and config.dtype == "float16":
        raise TrainingError("training.dtype float16 needs a GPU; use bfloat16 or float32")
    if config.quantization != "none":
        options["quantization_config"] = _quantization(config)
        options["device_map"] = {"": "cpu" if on_cpu(config) else int(os.environ.get("LOCAL_RANK", "0"))}
    remote = job.trust_remote_code
    loader = model_class(load_config(job.model_path, trust_remote_code=remote))
    try:
        model = loader.from_pretrained(str(job.model_path), trust_remote_code=remote, **options)
    except (OSError, ValueError, ImportError) as exc:
        raise TrainingError(f"the base model {job.model_path} cannot be loaded for training: {exc}") from exc
    model.config.use_cache = False
    if on_cpu(config) and model.dtype == torch.bfloat16 and not cpu_has_bfloat16():
        print("this CPU has no bfloat16 instructions (about 15 times slower than float32): training in float32")  # noqa: T201 - the log
        model = model.float()
    if config.quantization != "none":
        return prepare_model_for_kbit_training(model, use_gradient_checkpointing=config.gradient_checkpointing)
    return model


def _quantization(config: TrainingConfig) -> Any:
    if config.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
