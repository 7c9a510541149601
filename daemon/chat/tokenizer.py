"""Loads the tokenizer of the served model, for the child processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import connectors.torch_extras  # noqa: F401  # isort: skip - before transformers looks for them
from transformers import AutoTokenizer

from daemon.errors import ConfigError


def load_tokenizer(model_path: Path, *, trust_remote_code: bool = False) -> Any:
    """Raises ConfigError if the folder has no tokenizer, or one without an end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(model_path), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as exc:
        raise ConfigError(f"model.path: {model_path} has no usable tokenizer: {exc}") from exc
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"model.path: {model_path} has no end token; take an instruction-tuned model")
    return tokenizer
