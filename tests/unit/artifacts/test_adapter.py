"""Adapter folders: refused ones and the error texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from daemon.artifacts.adapter import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, Lineage, Manifest, verify
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.files import sha256_file
from daemon.errors import AdapterInvalidError, ConfigError

RANK, WIDTH, LAYERS = 4, 16, 2
MODULES = ("q_proj", "v_proj")
BASE = "b" * 64


def _key(layer: int, module: str, side: str) -> str:
    return f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{side}.weight"


def _weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        _key(layer, module, side): rng.normal(size=(RANK, WIDTH) if side == "A" else (WIDTH, RANK)).astype(np.float32)
        for layer in range(LAYERS)
        for module in MODULES
        for side in "AB"
    }


def _seal(folder: Path, **changes: Any) -> None:
    """Write a manifest that matches the folder's files."""
    files = {path.name: sha256_file(path) for path in folder.iterdir() if path.name != MANIFEST_FILE}
    lineage = Lineage(report_ids=("r1",), dataset_sha256="d" * 64, recipe="mistake-analysis", seed=1, steps=3)
    values = {
        "name": "aligned-g000001",
        "generation": 1,
        "run_id": 1,
        "base_fingerprint": BASE,
        "rank": RANK,
        "target_modules": MODULES,
        "files": files,
        "lineage": lineage,
        **changes,
    }
    (folder / MANIFEST_FILE).write_bytes(Manifest.model_validate(values).encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid adapter."""
    path = tmp_path / "aligned-g000001"
    path.mkdir()
    save_file(_weights(), path / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": list(MODULES)}
    (path / CONFIG_FILE).write_text(json.dumps(config))
    _seal(path)
    return path


def _verify(folder: Path, **changes: Any) -> Manifest:
    values = {
        "name": "aligned-g000001",
        "base_fingerprint": BASE,
        "max_rank": 16,
        "target_modules": [*MODULES, "o_proj"],
        **changes,
    }
    return verify(folder, **values)


def _change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    change(weights)
    save_file(weights, folder / WEIGHTS_FILE)
    _seal(folder)


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    _seal(folder)


def test_a_good_adapter_is_taken(folder: Path) -> None:
    manifest = _verify(folder)
    assert manifest.weights_sha256 == sha256_file(folder / WEIGHTS_FILE)
    assert manifest.lineage.report_ids == ("r1",)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(AdapterInvalidError, match=file):
        _verify(folder)


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_changed_after_training_is_refused(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(AdapterInvalidError, match=rf"{file} was changed after training"):
        _verify(folder)


@pytest.mark.parametrize("file", ["adapter_model.bin", "optimizer.pt", "nested/MODEL.PKL"])
def test_a_pickle_is_refused_even_when_the_manifest_does_not_name_it(folder: Path, file: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterInvalidError, match="only safetensors is allowed"):
        _verify(folder)


def test_a_file_that_the_manifest_does_not_name_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(AdapterInvalidError, match=r"tokenizer.json is not listed"):
        _verify(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS_FILE).rename(tmp_path / "elsewhere.safetensors")
    (folder / WEIGHTS_FILE).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(AdapterInvalidError, match="not a plain file"):
        _verify(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"name": "../x"}', b"\xff\xfe"],
    ids=["empty", "list", "cut", "incomplete", "not text"],
)
def test_a_broken_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(AdapterInvalidError, match="is not a manifest"):
        _verify(folder)


def test_a_manifest_cannot_point_out_of_the_folder(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"]["../outside.json"] = "0" * 64
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(AdapterInvalidError, match="is not a manifest"):
        _verify(folder)


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"name": "aligned-g000002"}, "is of adapter aligned-g000001, not aligned-g000002"),
        ({"base_fingerprint": "c" * 64}, "another base model"),
        ({"max_rank": 2}, "has rank 4, the servers allow at most 2"),
        ({"target_modules": ["q_proj"]}, "targets v_proj"),
    ],
    ids=["name", "base", "rank", "modules"],
)
def test_an_adapter_for_something_else_is_refused(folder: Path, expected: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterInvalidError, match=words):
        _verify(folder, **expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 8}, "has rank 8, the manifest 4"),
        ({"target_modules": ["q_proj"]}, "has target modules"),
        ({"target_modules": "all-linear"}, "has target modules 'all-linear'"),
        ({"peft_type": "IA3"}, "not LORA"),
        ({"use_dora": True}, "sets use_dora"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"rank_pattern": {"q_proj": 64}}, "sets rank_pattern"),
    ],
)
def test_a_configuration_that_vllm_would_not_apply_is_refused(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    _change_config(folder, **changes)
    with pytest.raises(AdapterInvalidError, match=words):
        _verify(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    def poison(weights: dict[str, Any]) -> None:
        weights[_key(1, "v_proj", "B")][0, 0] = value

    _change_weights(folder, poison)
    with pytest.raises(AdapterInvalidError, match=r"NaN or infinity in .*layers.1.*v_proj.lora_B"):
        _verify(folder)


def test_an_adapter_that_changes_nothing_is_refused(folder: Path) -> None:
    _change_weights(folder, lambda weights: [weights[key].fill(0) for key in weights if "lora_B" in key])
    with pytest.raises(AdapterInvalidError, match="changes nothing"):
        _verify(folder)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (_key(0, "q_proj", "A"), np.ones((RANK - 1, WIDTH), np.float32), "not of rank 4"),
        (_key(0, "q_proj", "B"), np.ones((WIDTH, RANK + 1), np.float32), "not of rank 4"),
        (_key(0, "q_proj", "B"), np.ones((WIDTH,), np.float32), "not a matrix"),
        (_key(0, "q_proj", "B"), None, "lacks lora_B"),
        (_key(0, "k_proj", "A"), np.ones((RANK, WIDTH), np.float32), "no target module"),
        ("base_model.model.lm_head.weight", np.ones((2, 2), np.float32), "no target module"),
        (_key(0, "q_proj", "A"), np.ones((RANK, WIDTH), np.float16), "as F16, not float32"),
    ],
    ids=["A", "B", "vector", "half", "module", "not lora", "dtype"],
)
def test_tensors_that_do_not_fit_are_refused(folder: Path, key: str, value: Any, words: str) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights.pop(key, None)
        if value is not None:
            weights[key] = value

    _change_weights(folder, change)
    with pytest.raises(AdapterInvalidError, match=words):
        _verify(folder)


def test_a_module_without_weights_is_refused(folder: Path) -> None:
    _change_config(folder, target_modules=[*MODULES, "o_proj"])
    _seal(folder, target_modules=(*MODULES, "o_proj"))
    with pytest.raises(AdapterInvalidError, match="holds no weights for o_proj"):
        _verify(folder)


def test_a_file_that_is_no_safetensors_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"not tensors")
    _seal(folder)
    with pytest.raises(AdapterInvalidError, match="is not a safetensors file"):
        _verify(folder)


# --- the base model ---


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    (path / "config.json").write_text("{}")
    shapes = {
        f"model.layers.{layer}.self_attn.{module}.weight": np.zeros((WIDTH, WIDTH), np.float32)
        for layer in range(LAYERS)
        for module in MODULES
    }
    save_file(shapes, path / "model.safetensors")
    return path


def test_layers_must_exist_in_the_base_model_and_fit_it(folder: Path, base_model: Path) -> None:
    _verify(folder, model_path=base_model)

    def widen(weights: dict[str, Any]) -> None:
        weights[_key(0, "q_proj", "B")] = np.ones((WIDTH * 2, RANK), np.float32)

    _change_weights(folder, widen)
    with pytest.raises(AdapterInvalidError, match="for a matrix of 32 x 16"):
        _verify(folder, model_path=base_model)


def test_a_layer_that_the_base_model_lacks_is_refused(folder: Path, base_model: Path) -> None:
    def move(weights: dict[str, Any]) -> None:
        for side in "AB":
            weights[_key(9, "q_proj", side)] = weights[_key(0, "q_proj", side)]

    _change_weights(folder, move)
    with pytest.raises(AdapterInvalidError, match=r"layers.9.*which the base model does not have"):
        _verify(folder, model_path=base_model)


def test_the_fingerprint_follows_every_byte_of_the_base_model(base_model: Path) -> None:
    before = base_fingerprint(base_model)
    assert before == base_fingerprint(base_model)
    weights = bytearray((base_model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base_model / "model.safetensors").write_bytes(weights)
    changed = base_fingerprint(base_model)
    (base_model / "config.json").write_text('{"rope": 1}')
    assert len({before, changed, base_fingerprint(base_model)}) == 3


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, base_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path"):
        base_fingerprint(tmp_path / "absent")
    (base_model / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        base_fingerprint(base_model)
