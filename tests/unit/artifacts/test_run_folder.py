"""The manifest of a run folder, written by this and earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.artifacts.run_folder import MANIFEST_FILE, load_manifest
from daemon.errors import DatasetError
from daemon.labels import LeftOut

WRITTEN: dict[str, Any] = {
    "version": 1,
    "run_id": 3,
    "run_created_at": "2026-11-20T08:00:00Z",
    "generation": 4,
    "recipe": "mistake-analysis+correction",
    "seed": 0,
    "base_fingerprint": "f" * 64,
    "files": {},
    "items": [],
    "examples": {"analysis": 2, "variant": 4},
    "left_out": {},
}


def _write(folder: Path, **changes: Any) -> Path:
    (folder / MANIFEST_FILE).write_text(json.dumps(WRITTEN | changes))
    return folder


def test_a_manifest_that_counts_variants_is_still_read(tmp_path: Path) -> None:
    folder = _write(tmp_path, variants={"used": 4, "near-duplicate of a question": 1, "another meaning": 2})
    assert load_manifest(folder).examples == {"analysis": 2, "variant": 4}


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("without an example under the recipe", LeftOut.NO_EXAMPLE),
        ("above max_per_reporter", LeftOut.MAX_PER_REPORTER),
        ("above max_per_cluster", LeftOut.MAX_PER_CLUSTER),
        ("above max_reports", LeftOut.MAX_REPORTS),
        ("near-duplicate of another report", LeftOut.NEAR_DUPLICATE),
        ("similar to a held-out report", LeftOut.HELD_OUT_ALIKE),
    ],
)
def test_a_manifest_that_gives_reasons_as_texts_is_still_read(tmp_path: Path, written: str, reason: LeftOut) -> None:
    manifest = load_manifest(_write(tmp_path, left_out={written: 3}))
    assert manifest.left_out == {reason: 3}
    assert json.loads(manifest.encode())["left_out"] == {reason.value: 3}


def test_a_manifest_with_an_unknown_reason_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a manifest"):
        load_manifest(_write(tmp_path, left_out={"on a whim": 1}))


def test_a_manifest_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not a manifest"):
        load_manifest(_write(tmp_path, unheard_of=1))
