"""The adapter folder: its manifest, and the checks before it may be loaded.

vLLM 0.32 validates almost nothing: NaN weights corrupt every answer of the server, and wrong shapes or unknown layers
load without an error. So a folder is verified here, without torch, before vLLM loads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from daemon.artifacts.base_layers import Shape, layer_shapes
from daemon.artifacts.files import sha256_file
from daemon.artifacts.run_folder import Flips
from daemon.errors import AdapterInvalidError
from daemon.labels import LeftOut

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})

_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+\.(?P<module>[^.]+))\.lora_(?P<side>[AB])\.weight")
_PLAIN_NAME = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "lora_bias")
"""Settings of peft that vLLM ignores or refuses: the served model would differ from the trained one."""


class Lineage(BaseModel):
    """Origin of the weights: reports, dataset, recipe and training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    report_ids: tuple[str, ...] = Field(description="Reports with examples in the training set, sorted.")
    dataset_sha256: _SHA256 = Field(description="SHA-256 of the run folder's manifest.json.")
    recipe: str
    recipes: Mapping[str, str] = Field(default={}, description="Kinds of mistakes with another recipe.")
    flips: Mapping[str, Flips] = Field(default={}, description="The test of the teachers, by kind of mistake.")
    hindsight_advantage: float | None = Field(
        default=None, description="Mean of |A| over flagged answers with a complaint, in nats per token."
    )
    seed: int
    steps: int = Field(ge=1, description="Optimiser steps.")
    examples: Mapping[str, int] = Field(default={}, description="Examples in the dataset, by kind.")
    left_out: Mapping[str, LeftOut] = Field(
        default={}, description="Reports that the trainer left out, with the reason."
    )
    kl_to_base: float | None = Field(
        default=None, description="KL(base || trained) on the lessons' prompts, in nats per token."
    )
    kl_by_strength: Mapping[str, float] = Field(
        default={}, description="The same at each strength of `training.strengths`."
    )
    entropy: float | None = Field(
        default=None, description="Entropy of the next token on the lessons' prompts after training, in nats."
    )
    base_entropy: float | None = Field(default=None, description="The same of the base model.")


class Manifest(BaseModel):
    """`manifest.json` of an adapter folder; `files` maps every other file to its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _PLAIN_NAME
    generation: int = Field(ge=1)
    run_id: int
    base_fingerprint: _SHA256
    rank: int = Field(ge=1)
    target_modules: tuple[str, ...] = Field(min_length=1)
    strength: float = Field(default=1.0, gt=0, le=1, description="lora_alpha is this share of the trained one.")
    files: Mapping[_PLAIN_NAME, _SHA256]
    lineage: Lineage

    @property
    def weights_sha256(self) -> str:
        return self.files[WEIGHTS_FILE]

    def encode(self) -> bytes:
        return (self.model_dump_json(indent=2) + "\n").encode()


def verify(
    folder: Path,
    *,
    name: str,
    base_fingerprint: str,
    max_rank: int,
    target_modules: Sequence[str],
    model_path: Path | None = None,
) -> Manifest:
    """Check that the folder holds a usable adapter with this name for this base model.

    With `model_path` (an unquantised base model), each layer must exist in the base model with the same shape.

    Raises:
        AdapterInvalidError: names the file and the reason.
    """
    manifest = read_manifest(folder)
    if manifest.name != name:
        _refuse(folder / MANIFEST_FILE, f"is of adapter {manifest.name}, not {name}")
    if manifest.base_fingerprint != base_fingerprint:
        _refuse(
            folder / MANIFEST_FILE,
            f"was trained on another base model ({manifest.base_fingerprint[:12]}, served is {base_fingerprint[:12]})",
        )
    _check_files(folder, manifest)
    _check_config(folder / CONFIG_FILE, manifest, max_rank=max_rank, allowed=target_modules)
    _check_weights(folder / WEIGHTS_FILE, manifest, {} if model_path is None else layer_shapes(model_path))
    return manifest


def _refuse(path: Path, reason: str) -> NoReturn:
    raise AdapterInvalidError(f"{path} {reason}; the adapter must not be loaded, train a new one")


def read_manifest(folder: Path) -> Manifest:
    """The manifest as written; `verify` compares it with the files. Raises AdapterInvalidError."""
    path = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise AdapterInvalidError(f"{path} cannot be read: {exc.strerror}; the adapter is not complete") from exc
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(map(str, error["loc"])) or "file"
        raise AdapterInvalidError(f"{path} is not a manifest: {where}: {error['msg']}; train a new adapter") from exc


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    for path in present.values():
        if path.suffix.lower() in PICKLE_SUFFIXES:
            _refuse(path, "may hold a pickle, which can run code; only safetensors is allowed")
    for required in (CONFIG_FILE, WEIGHTS_FILE):
        if required not in manifest.files:
            _refuse(folder / MANIFEST_FILE, f"does not list {required}")
    for file in sorted(manifest.files):
        if file not in present:
            _refuse(folder / file, "is missing, though the manifest lists it")
        if present[file].is_symlink() or not present[file].is_file():
            _refuse(folder / file, "is not a plain file")
        if sha256_file(present[file]) != manifest.files[file]:
            _refuse(folder / file, "was changed after training: its SHA-256 differs from the manifest")
    for file in sorted(present.keys() - manifest.files.keys() - {MANIFEST_FILE}):
        _refuse(folder / file, "is not listed in the manifest")


def _check_config(path: Path, manifest: Manifest, *, max_rank: int, allowed: Sequence[str]) -> None:
    config = read_json(path)
    modules = config.get("target_modules")
    if config.get("peft_type") != "LORA":
        _refuse(path, f"is of peft_type {config.get('peft_type')!r}, not LORA")
    if config.get("r") != manifest.rank:
        _refuse(path, f"has rank {config.get('r')!r}, the manifest {manifest.rank}")
    if manifest.rank > max_rank:
        _refuse(path, f"has rank {manifest.rank}, the servers allow at most {max_rank}")
    if not isinstance(modules, list) or sorted(modules) != sorted(manifest.target_modules):
        _refuse(path, f"has target modules {modules!r}, the manifest {list(manifest.target_modules)}")
    unknown = sorted(set(manifest.target_modules) - set(allowed))
    if unknown:
        _refuse(path, f"targets {', '.join(unknown)}, which the servers do not support (training.target_modules)")
    for key in _UNSUPPORTED:
        if config.get(key):
            _refuse(path, f"sets {key}, which vLLM does not apply")


def read_json(path: Path) -> dict[str, Any]:
    """Raises AdapterInvalidError if the file is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise AdapterInvalidError(f"{path} is not JSON: {exc}; train a new adapter") from exc
    if not isinstance(value, dict):
        raise AdapterInvalidError(f"{path} is not a JSON object; train a new adapter")
    return value


def _check_weights(path: Path, manifest: Manifest, base_shapes: Mapping[str, Shape]) -> None:
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    changes = False
    for key, tensor in _tensors(path):
        match = _TENSOR.fullmatch(key)
        if match is None or match["module"] not in manifest.target_modules:
            _refuse(path, f"holds {key}, which belongs to no target module")
        if not np.isfinite(tensor).all():
            _refuse(path, f"holds NaN or infinity in {key}")
        pairs.setdefault(match["layer"], {})[match["side"]] = tensor.shape
        changes = changes or (match["side"] == "B" and bool(tensor.any()))
    for layer, shapes in pairs.items():
        _check_shapes(path, layer, shapes, manifest.rank)
        if base_shapes:
            _check_fit(path, layer, shapes, base_shapes)
    trained = {layer.rpartition(".")[2] for layer in pairs}
    if trained != set(manifest.target_modules):
        _refuse(path, f"holds no weights for {', '.join(sorted(set(manifest.target_modules) - trained))}")
    if not changes:
        _refuse(path, "changes nothing: every lora_B is zero")


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                dtype = file.get_slice(key).get_dtype()
                if dtype != "F32":
                    _refuse(path, f"holds {key} as {dtype}, not float32")
                yield key, file.get_tensor(key)
    except SafetensorError as exc:
        raise AdapterInvalidError(f"{path} is not a safetensors file: {exc}; train a new adapter") from exc


def _check_shapes(path: Path, layer: str, shapes: Mapping[str, tuple[int, ...]], rank: int) -> None:
    for side in ("A", "B"):
        if side not in shapes:
            _refuse(path, f"lacks lora_{side} of {layer}")
        if len(shapes[side]) != 2:
            _refuse(path, f"holds lora_{side} of {layer} with shape {shapes[side]}, not a matrix")
    if shapes["A"][0] != rank or shapes["B"][1] != rank:
        _refuse(path, f"holds {layer} with shapes {shapes['A']} and {shapes['B']}, which are not of rank {rank}")


def _check_fit(path: Path, layer: str, shapes: Mapping[str, tuple[int, ...]], base_shapes: Mapping[str, Shape]) -> None:
    if layer not in base_shapes:
        _refuse(path, f"holds {layer}, which the base model does not have")
    base = base_shapes[layer]
    if base is not None and (shapes["B"][0], shapes["A"][1]) != base:
        _refuse(path, f"holds {layer} for a matrix of {shapes['B'][0]} x {shapes['A'][1]}, the base model's is {base}")
