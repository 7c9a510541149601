"""Vectors of texts from a small local model: mean-pooled last hidden states, centred and scaled.

The daemon itself never loads torch. A child process (`daemon.dataset.embedder`) computes missing vectors, and they are
cached on disk. With `dataset.similarity_by: words` the child is never started.

The mean-pooled states of a language model all point in a similar direction (any two prompts have a cosine of about
0.9), and a few coordinates dominate. So each coordinate is centred and scaled by its mean and deviation over the
ordinary prompts shipped with erratad. This is the same for all installations with the same model, independent of their
reports.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from daemon.artifacts.base_model import base_fingerprint
from daemon.config.dataset import DatasetConfig, Device
from daemon.dataset.replay import read_prompts
from daemon.errors import DatasetError, StoppedError
from daemon.runtime.child import describe, environment
from daemon.runtime.stage import Life
from daemon.text.similarity import Vectorizer, Words

CHILD_THREADS = 1
"""One thread leaves the CPU to a server on the same machine. A few hundred prompts take seconds."""
POLL_S = 1.0
TIMEOUT_S = 3600.0
"""A longer child hangs: a small model needs minutes for ten thousand prompts."""
TAIL_CHARACTERS = 600
SMALLEST_SPREAD = 1e-6
"""Added to the deviation of every coordinate, against division by zero."""

Matrix = NDArray[np.float32]


class EmbeddingJob(BaseModel):
    """The standard input of the child. It writes each vector to its `vector_file` in `folder`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_path: Path
    device: Device
    folder: Path
    texts: tuple[str, ...]


def vector_file(folder: Path, text: str) -> Path:
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npy"


class Embeddings:
    """The vectorizer by a model's vectors.

    It serves one step: `life` gets a heartbeat while the child works. When the daemon stops, the child is ended, and
    what it made is kept. `known` holds the vectors by text; steps that share it read each from disk once.

    Raises (from `vectors`):
        ConfigError: when the folder holds no model.
        DatasetError: when the child fails.
        StoppedError: when the daemon stops before all vectors are there.
    """

    def __init__(
        self, *, model_path: Path, device: Device, cache_dir: Path, life: Life, known: dict[str, Matrix] | None = None
    ) -> None:
        self._model_path = model_path
        self._device = device
        self._cache_dir = cache_dir
        self._life = life
        self._known = {} if known is None else known

    def vectors(self, texts: Sequence[str]) -> Matrix:
        """One row per text, with norm 1."""
        ordinary = [prompt[-1]["content"] for prompt in read_prompts(None)]
        raw = self._raw([*ordinary, *texts])
        reference, rows = raw[: len(ordinary)], raw[len(ordinary) :]
        scaled = (rows - reference.mean(axis=0)) / (reference.std(axis=0) + SMALLEST_SPREAD)
        lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
        return np.asarray(scaled / np.maximum(lengths, SMALLEST_SPREAD), dtype=np.float32)

    def forget_unused(self) -> None:
        """Delete the vectors of texts not used since the last call, for example of erased reports."""
        if not self._known:
            return
        used = {vector_file(self._folder, text) for text in self._known}
        for path in self._folder.iterdir():
            if path not in used:
                path.unlink()
        for other in self._cache_dir.iterdir():
            if other != self._folder:  # vectors of another model
                shutil.rmtree(other)
        self._known.clear()

    @cached_property
    def _folder(self) -> Path:
        return self._cache_dir / base_fingerprint(self._model_path, key="dataset.embedding_model")[:16]

    def _raw(self, texts: Sequence[str]) -> Matrix:
        missing = [text for text in dict.fromkeys(texts) if not self._find(text)]
        if missing:
            self._make(missing)
            lost = [text for text in missing if not self._find(text)]
            if lost:
                raise DatasetError(f"{len(lost)} of {len(missing)} texts got no vector in {self._folder}")
        return np.stack([self._known[text] for text in texts]) if texts else np.empty((0, 1), dtype=np.float32)

    def _find(self, text: str) -> bool:
        if text not in self._known:
            try:
                self._known[text] = np.load(vector_file(self._folder, text), allow_pickle=False)
            except (FileNotFoundError, EOFError, ValueError):  # missing, or incomplete after a power failure
                return False
        return True

    def _make(self, texts: Sequence[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        job = EmbeddingJob(
            model_path=self._model_path.absolute(),
            device=self._device,
            folder=self._folder.absolute(),
            texts=tuple(texts),
        )
        with subprocess.Popen(
            [sys.executable, "-m", "daemon.dataset.embedder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(CHILD_THREADS),
            start_new_session=True,  # Ctrl-C reaches only the daemon, which then stops the child
        ) as child:
            try:
                stderr = self._wait(child, job.model_dump_json().encode())
            finally:
                child.kill()
        if child.returncode != 0:
            raise DatasetError(
                f"dataset.embedding_model: no vectors from {self._model_path} on {self._device}: the child "
                f"{describe(child.returncode)}: {stderr[-TAIL_CHARACTERS:].strip() or 'no error text'}; repair that, "
                "or set dataset.similarity_by to words, and start a new run"
            )

    def _wait(self, child: subprocess.Popen[bytes], job: bytes) -> str:
        """Wait for the end of the child and return its standard error."""
        to_send: bytes | None = job
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                return child.communicate(to_send, timeout=POLL_S)[1].decode(errors="replace")
            except subprocess.TimeoutExpired:
                to_send = None  # communicate() accepts its input only once
            self._life.heartbeat()
            if self._life.stopping:
                raise StoppedError("the daemon stops during the comparison of texts; the next start continues")
        raise DatasetError(f"dataset.embedding_model: no vectors from {self._model_path} within {TIMEOUT_S:g} s")


def vectorizer_of(
    config: DatasetConfig,
    *,
    model_path: Path,
    cache_dir: Path,
    life: Life,
    known: dict[str, Matrix] | None = None,
) -> Vectorizer:
    """The configured way of comparing. Without a named embedding model, the served base model makes the vectors."""
    if config.similarity_by == "words":
        return Words()
    return Embeddings(
        model_path=config.embedding_model or model_path,
        device=config.embedding_device,
        cache_dir=cache_dir,
        life=life,
        known=known,
    )
