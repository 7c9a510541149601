"""The layers of a base model that an adapter can hold, by the names that trainer and vLLM use.

Read from config.json and the headers of the weights: it takes milliseconds for a model of any size, and no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from safetensors import SafetensorError, safe_open

from daemon.artifacts.without_lora import WITHOUT_LORA
from daemon.errors import ConfigError

TargetModules = Literal["auto"] | Sequence[str]
LANGUAGE_PART = "model.language_model."
"""Where transformers keeps the language part of a multimodal model. vLLM maps this prefix to its own."""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "o_proj", "dense")
_MLP = ("gate_proj", "up_proj", "gate_up_proj", "down_proj", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2")
_FUSED = frozenset({"qkv_proj", "gate_up_proj"})
_FUSED_IN_VLLM = frozenset({"Phi3ForCausalLM"})
"""Classes whose fused layers vLLM takes whole. In others (GLM-4), vLLM wants the parts, which the trainer has not."""
_VOCABULARY = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "word_embeddings")

_ROUTERS = (".gate", ".router")
"""Layers that choose experts; peft cannot adapt them."""

_LAYER = re.compile(r"(?P<prefix>[\w.]+?\.|)(?P<layer>(?:layers|h|blocks)\.\d+\..+)\.q?weight")
_LANGUAGE_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
_PACKED_TYPES = frozenset({"U8", "I8", "I32"})
"""Types of quantised weights: their shape is not the layer's."""

Shape = tuple[int, ...] | None
"""None: the weights are packed by a quantisation."""


@dataclass(frozen=True, kw_only=True)
class BaseLayers:
    """The linear layers of the language part, without experts. `shapes` has them by the trainer's names."""

    architecture: str
    is_multimodal: bool
    has_experts: bool
    shapes: Mapping[str, Shape]

    @classmethod
    def read(cls, model_path: Path) -> Self:
        """Raises ConfigError, with the key and what to change, if this model takes no adapters."""
        config = read_config(model_path)
        architecture = _architecture(config)
        if architecture in WITHOUT_LORA:
            raise ConfigError(
                f"model.path: vLLM serves {architecture} without LoRA adapters; take a model of another family "
                "(docs/models.md lists some)"
            )
        weights = weight_shapes(model_path)
        if any(name.startswith("layers.") for name in weights) and not any(".layers." in name for name in weights):
            raise ConfigError(
                "model.path: the weights' names begin with 'layers.' instead of 'model.layers.', so vLLM cannot load "
                "them; load the model with transformers' AutoModelForCausalLM and save it with save_pretrained"
            )
        return cls(
            architecture=architecture,
            is_multimodal=is_multimodal(config),
            has_experts=any("expert" in name for name in weights),
            shapes=_layers(weights, multimodal=is_multimodal(config)),
        )

    @cached_property
    def modules(self) -> frozenset[str]:
        """The last part of the layers' names."""
        fused = frozenset() if self.architecture in _FUSED_IN_VLLM else _FUSED
        return frozenset(name.rpartition(".")[2] for name in self.shapes) - fused

    def auto(self) -> tuple[str, ...]:
        """The modules that `auto` stands for: attention and MLP; of a mixture of experts only attention.

        Raises:
            ConfigError: if there is none.
        """
        chosen = tuple(one for one in (_ATTENTION if self.has_experts else _ATTENTION + _MLP) if one in self.modules)
        if not chosen:
            raise ConfigError(
                f"training.target_modules: 'auto' knows no layer of {self.architecture}; name those to train, of "
                f"{', '.join(sorted(self.modules)) or 'which the folder shows none'}"
            )
        return chosen

    def choose(self, wanted: TargetModules) -> tuple[str, ...]:
        """The modules that adapters train: `auto`, or those of an explicit list.

        Raises:
            ConfigError: if one of the list cannot be trained and served.
        """
        if wanted == "auto":
            return self.auto()
        for module in wanted:
            if module in _VOCABULARY:
                raise ConfigError(
                    f"training.target_modules: {module} is the vocabulary's matrix, which takes no adapter here; "
                    "remove it, or write auto"
                )
        if absent := sorted(set(wanted) - self.modules):
            experts = " (experts are not trained)" if self.has_experts else ""
            raise ConfigError(
                f"training.target_modules: trainer and vLLM cannot both hold {', '.join(absent)} of "
                f"{self.architecture}{experts}; choose of {', '.join(sorted(self.modules))}, or write auto"
            )
        return tuple(wanted)

    @property
    def excluded(self) -> str | None:
        """Layers that peft must leave alone though their names end like a module's, as a regular expression."""
        outside = f"(?!{re.escape(LANGUAGE_PART)}).*" if self.is_multimodal else None
        experts = ".*expert.*" if self.has_experts else None
        return "|".join(filter(None, (outside, experts))) or None


def target_modules(model_path: Path, wanted: TargetModules) -> tuple[str, ...]:
    """The modules that adapters of this model train. Raises ConfigError if the model takes none."""
    return BaseLayers.read(model_path).auto() if wanted == "auto" else tuple(wanted)


def layer_shapes(model_path: Path) -> dict[str, Shape]:
    """Shapes of the layers that an adapter may change, by the trainer's names. Raises ConfigError."""
    return _layers(weight_shapes(model_path), multimodal=is_multimodal(read_config(model_path)))


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether config.json is that of a model with a language part and others."""
    return "vision_config" in config or "audio_config" in config


def read_config(model_path: Path) -> dict[str, Any]:
    """config.json of a model. Raises ConfigError."""
    path = model_path / "config.json"
    if not model_path.is_dir():
        raise ConfigError(f"model.path: {model_path} cannot be read: it is no folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"model.path: {path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"model.path: {path} is not JSON: {exc}; download the model again") from exc
    if not isinstance(config, dict):
        raise ConfigError(f"model.path: {path} is not a JSON object; download the model again")
    return config


def _architecture(config: Mapping[str, Any]) -> str:
    match config.get("architectures"):
        case [str(first), *_]:
            return first
    raise ConfigError("model.path: config.json names no architectures; give the folder of a Hugging Face chat model")


def weight_shapes(model_path: Path) -> dict[str, Shape]:
    """Shapes of the base model's weights by their names on disk, read from the headers of the files.

    Raises:
        ConfigError: if a file is missing or is no safetensors file.
    """
    shapes: dict[str, Shape] = {}
    for path in _files(model_path):
        try:
            with safe_open(path, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(key)
                    shapes[key] = None if part.get_dtype() in _PACKED_TYPES else tuple(part.get_shape())
        except (OSError, SafetensorError) as exc:
            raise ConfigError(f"model.path: {path} cannot be read: {exc}; download the model again") from exc
    return shapes


def _files(model_path: Path) -> list[Path]:
    """The files that transformers and vLLM load; a folder may hold the weights twice (Mistral's consolidated file)."""
    index = model_path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as exc:
            raise ConfigError(f"model.path: {index} cannot be read: {exc}; download the model again") from exc
        return [model_path / name for name in names]
    one = model_path / "model.safetensors"
    found = [one] if one.exists() else sorted(model_path.glob("*.safetensors"))
    if not found:
        pickles = sorted(path.name for path in model_path.glob("*.bin"))
        what = f"holds its weights in {pickles[0]}, a pickle, which can run code" if pickles else "holds no weights"
        raise ConfigError(f"model.path: {model_path} {what}; give the folder of a model in safetensors format")
    return found


def _layers(weights: Mapping[str, Shape], *, multimodal: bool) -> dict[str, Shape]:
    named = {_trained_name(name, multimodal=multimodal): shape for name, shape in weights.items()}
    return {name: shape for name, shape in named.items() if name is not None and (shape is None or len(shape) == 2)}


def _trained_name(name: str, *, multimodal: bool) -> str | None:
    """The layer's name in the trainer; None for an expert, a router, or a layer outside the language part."""
    match = _LAYER.fullmatch(name)
    if match is None or "expert" in name or match["layer"].endswith(_ROUTERS):
        return None
    if not multimodal:
        return match["prefix"] + match["layer"]
    return LANGUAGE_PART + match["layer"] if match["prefix"] in _LANGUAGE_PREFIXES else None
