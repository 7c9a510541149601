"""What a vLLM server says in its log: how far its start is, and why it ended."""

from __future__ import annotations

import re
from pathlib import Path

MAX_LOG_BYTES = 64 * 1024 * 1024
TAIL_BYTES = 256 * 1024
SENTENCE_CHARS = 300
_PHASES = (
    ("Starting vLLM server on", "opening the API"),
    ("Supported tasks:", "opening the API"),
    ("Warming up", "warming up"),
    ("Capturing CUDA graph", "capturing CUDA graphs"),
    ("GPU KV cache size", "preparing the cache"),
    ("CPU KV cache size", "preparing the cache"),
    ("Loading weights took", "preparing the cache"),
    ("Starting to load model", "loading weights"),
    ("Initializing a V1 LLM engine", "starting the engine"),
)
"""Lines of vLLM 0.32's log, latest first; a version with other lines shows only 'importing modules'."""
_ERROR = re.compile(r"(?:\w*(?:Error|Exception)\b|erratad-vllm: ).*")
"""A Python error, or what the shell says of a command that it cannot start (see `daemon.serving.process`)."""
_REMARK = re.compile(r"(?:\(.*?\) )?(?:DEBUG|INFO|WARNING) ")
"""A line that tells of no failure, though it may name errors that could come."""


class ServerLog:
    """The part of the log file that belongs to the server started last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def begin(self) -> None:
        """Called before a start; a log that grew large is kept as ``vllm.log.1``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        size = self.path.stat().st_size if self.path.exists() else 0
        if size > MAX_LOG_BYTES:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            size = 0
        self._start = size

    def phase(self) -> str:
        """How far the start is, in words."""
        text = self._tail()
        return next((words for marker, words in _PHASES if marker in text), "importing modules")

    def last_words(self) -> str:
        """The first error in the log (vLLM's later ones only repeat that its engine died), else the last line."""
        lines = [line.strip() for line in self._tail().splitlines() if line.strip()]
        errors = (match[0] for line in lines if not _REMARK.match(line) and (match := _ERROR.search(line)))
        return next(errors, lines[-1] if lines else "it logged nothing")[:SENTENCE_CHARS]

    def _tail(self) -> str:
        if not self.path.exists():
            return ""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(min(self._start, size), size - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
