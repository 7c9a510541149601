"""The checks of `check-config` on the folder of the base model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from daemon.artifacts.base_layers import BaseLayers, read_config
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.serving.command import installed_vllm, runs_on_cpu
from daemon.training.examination import Findings, examine_model

_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
"""Keys of config.json for the number of tokens that a model takes; vLLM reads them, too."""
_FIXED_SCALING = frozenset({"default", "su", "longrope", "llama3", "mrope"})
"""Kinds of position scaling that `max_position_embeddings` includes already."""


def folder_problems(config: Config) -> Iterator[str]:
    """What the files of the folder show, without torch."""
    path = config.model.path
    if not path.is_dir():
        yield f"model.path: {path} is not a folder; give the folder of a Hugging Face model (config.json, safetensors)"
        return
    if not (path / "config.json").is_file():
        yield f"model.path: {path} holds no config.json, so it is not a Hugging Face model folder"
        return
    if unread := [one.name for one in sorted(path.iterdir()) if not os.access(one, os.R_OK)]:
        yield f"model.path: the user who runs this cannot read {', '.join(unread)} of {path}; change owner or mode"
        return
    try:
        BaseLayers.read(path).choose(config.training.target_modules)
    except ConfigError as exc:
        yield str(exc)
    yield from _length(config)


def _length(config: Config) -> Iterator[str]:
    if "VLLM_ALLOW_LONG_MAX_MODEL_LEN" in config.serving.environment:
        return
    try:
        limit = longest_context(read_config(config.model.path))
    except ConfigError:
        return
    if limit is not None and config.serving.max_model_len > limit:
        yield (
            f"serving.max_model_len: {config.serving.max_model_len} is more than the {limit} tokens that the model "
            f"takes, so vLLM will not start; write at most {limit}"
        )


def longest_context(model: Mapping[str, Any]) -> int | None:
    """The number of tokens that vLLM allows by config.json; None if config.json names none."""
    text = {**model, **model.get("text_config", {})}
    lengths = [int(text[key]) for key in _LENGTHS if isinstance(text.get(key), int)]
    if not lengths:
        return None
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor = scaling.get("factor")
    if kind in _FIXED_SCALING or not isinstance(factor, int | float):
        return min(lengths)
    return int(factor * scaling.get("original_max_position_embeddings", min(lengths)))


def examine(config: Config) -> Findings:
    """What loading the model shows: `folder_problems` come first, and make this look useless."""
    installed = installed_vllm()
    try:
        on_gpu = (
            config.serving.mode == "managed" and installed is not None and not runs_on_cpu(config.serving, installed)
        )
    except ConfigError:  # a problem of its own, and listed
        on_gpu = False
    return examine_model(config, serves_on_gpu=on_gpu)
