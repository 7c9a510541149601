"""Adapter folders of the same weights at a lower strength."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from daemon.adapter_names import strength_name
from daemon.artifacts.adapter import CONFIG_FILE, WEIGHTS_FILE, read_manifest, verify
from daemon.artifacts.strength import weakened
from daemon.errors import AdapterInvalidError
from tests.fixtures.models import with_manifest

BASE = "b" * 64
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained adapter with alpha 8 whose distance was measured at three strengths."""
    path = tmp_path / "aligned-g000001"
    path.mkdir()
    _fill(path, seed=0)
    return path


def _fill(path: Path, *, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {
        KEY.format(side): rng.normal(size=shape).astype(np.float32) for side, shape in (("A", (4, 16)), ("B", (16, 4)))
    }
    save_file(weights, path / WEIGHTS_FILE)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (path / CONFIG_FILE).write_text(json.dumps(config))
    with_manifest(path)


def test_a_weaker_adapter_has_the_same_weights_and_a_smaller_alpha(folder: Path) -> None:
    made = weakened(folder, 0.75)
    assert made == folder.with_name("aligned-g000001-s75")
    manifest = verify(made, name=made.name, base_fingerprint=BASE, max_rank=4, target_modules=["q_proj"])
    assert json.loads((made / CONFIG_FILE).read_text())["lora_alpha"] == 6
    assert (made / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
    trained = read_manifest(folder)
    assert (manifest.strength, trained.strength) == (0.75, 1.0)
    assert manifest.weights_sha256 == trained.weights_sha256
    assert (manifest.lineage.kl_to_base, trained.lineage.kl_to_base) == (0.2, 0.4)
    assert manifest.lineage.report_ids == trained.lineage.report_ids
    assert manifest.generation == trained.generation


def test_the_weaker_one_outlives_the_trained_folder(folder: Path) -> None:
    made = weakened(folder, 0.5)
    for file in folder.iterdir():
        file.unlink()
    verify(made, name=made.name, base_fingerprint=BASE, max_rank=4, target_modules=["q_proj"])


def test_a_strength_that_was_not_measured_has_no_distance(folder: Path) -> None:
    assert read_manifest(weakened(folder, 0.25)).lineage.kl_to_base is None


def test_full_strength_is_the_trained_folder(folder: Path) -> None:
    assert weakened(folder, 1.0) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_made_before_a_kill_is_used_again(folder: Path) -> None:
    made = weakened(folder, 0.5)
    before = {file.name: file.stat().st_mtime_ns for file in made.iterdir()}
    folder.with_name(f".{strength_name(folder.name, 0.75)}.partial").mkdir()  # a kill left it
    assert weakened(folder, 0.5) == made
    assert {file.name: file.stat().st_mtime_ns for file in made.iterdir()} == before
    assert weakened(folder, 0.75).exists()


def test_other_weights_at_that_place_are_refused(folder: Path) -> None:
    made = weakened(folder, 0.5)
    (made / WEIGHTS_FILE).unlink()  # a hard link: the trained folder keeps its own
    _fill(made, seed=1)
    with pytest.raises(AdapterInvalidError, match="holds other weights"):
        weakened(folder, 0.5)


def test_an_untrained_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalidError, match=r"manifest\.json cannot be read"):
        weakened(tmp_path / "aligned-g000001", 0.5)


def test_weights_are_copied_where_links_are_impossible(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    made = weakened(folder, 0.5)
    verify(made, name=made.name, base_fingerprint=BASE, max_rank=4, target_modules=["q_proj"])
    assert (made / WEIGHTS_FILE).stat().st_ino != (folder / WEIGHTS_FILE).stat().st_ino
