"""Packages that fail at their import are hidden from those who only ask whether they are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.deploy import ROOT

CODE = """
import sys
sys.path[:0] = {path!r}
from connectors.torch_extras import HIDDEN
from importlib.util import find_spec
print(*HIDDEN, "|", *(name for name in ("torchvision", "torchaudio", "torchcodec") if find_spec(name)))
"""


def hidden_and_left(site: Path) -> str:
    code = CODE.format(path=[str(site), str(ROOT)])
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A torch, a torchvision that is made for another one, and a torchaudio that works."""
    texts = {
        "torch/__init__.py": "",
        "torch/version.py": "__version__ = '2.13.0+cpu'\n",
        "torchvision/__init__.py": "import torchvision.ops\nraise RuntimeError('no operator torchvision::nms')\n",
        "torchvision/ops.py": "",
        "torchaudio/__init__.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_those_that_cannot_be_imported_look_as_if_not_installed(site: Path) -> None:
    assert hidden_and_left(site) == "torchvision | torchaudio\n"


def test_with_a_torch_for_gpus_nothing_is_imported(site: Path) -> None:
    (site / "torch" / "version.py").write_text("__version__ = '2.13.0+cu130'\n")
    assert hidden_and_left(site) == "| torchvision torchaudio\n"


def test_without_them_nothing_is_hidden(tmp_path: Path) -> None:
    assert hidden_and_left(tmp_path) == "|\n"
