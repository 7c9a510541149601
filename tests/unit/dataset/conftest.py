"""A dataset stage over SQLite, with a base model that answers ordinary prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.dataset.stage import DatasetStage
from daemon.store import Store
from tests.fixtures.training import OrdinaryAnswers, dataset_stage


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """The files of a base model that its fingerprint covers."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def servers() -> OrdinaryAnswers:
    return OrdinaryAnswers()


@pytest.fixture
def make_stage(
    sqlite_store: Store, tmp_path: Path, base_model: Path, servers: OrdinaryAnswers
) -> Callable[..., DatasetStage]:
    few_pairs = {"replay_fraction": 0.2, "golden_pairs": False}
    return lambda **config: dataset_stage(sqlite_store, tmp_path, base_model, servers, **few_pairs | config)
