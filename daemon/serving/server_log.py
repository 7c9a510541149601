"""Reads and rotates the log of a vLLM server: the phase of its start, and the reason of its failure."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

MAX_LOG_BYTES = 64 * 1024 * 1024
KEPT_LOGS = 3
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
"""Lines of vLLM 0.32's log, latest phase first. For a version with other lines the phase stays 'importing modules'."""
_ERROR = re.compile(r"(?:\w*(?:Error|Exception)\b|erratad-vllm: ).*")
"""A Python error, or the shell's error for a command that cannot start (see `daemon.serving.process`)."""
_REMARK = re.compile(r"(?:\(.*?\) )?(?:DEBUG|INFO|WARNING) ")
"""A log line below ERROR. It may contain the name of an error without reporting a failure."""


class ServerLog:
    """The log of the current server; ``vllm.log.1`` is the newest of the old logs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0  # offset of this server's first line; negative: counted from the end of the newest old log
        self._retry_above = 0

    def begin(self) -> None:
        """Prepare the log; call it before a server starts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._size() > MAX_LOG_BYTES:
            self.path.replace(self._old())
        self._retry_above = 0
        self._start = self._size()

    def adopt(self, age_s: float) -> None:
        """Find the log of a server that an earlier daemon started `age_s` seconds ago; it may have rotated the log."""
        old = self._path(1)
        if old.exists() and old.stat().st_mtime > time.time() - age_s:
            self._start = -old.stat().st_size

    def rotate(self) -> None:
        """Rotate a large log while the server writes to it.

        The server keeps the file open, in append mode, and may outlive the daemon. So the log is copied and then
        truncated. Lines written between copy and truncation, some microseconds, are lost.
        """
        size = self._size()
        if size <= max(MAX_LOG_BYTES, self._retry_above):
            return
        try:
            self._start -= self._copy_and_empty(size)
        except OSError as exc:  # a full disk is no reason to stop the server
            self._retry_above = size + MAX_LOG_BYTES
            log.warning("vllm_log_not_rotated", path=str(self.path), bytes=size, error=str(exc))
        else:
            self._retry_above = 0

    def phase(self) -> str:
        """The phase of the start."""
        text = self._tail()
        return next((words for marker, words in _PHASES if marker in text), "importing modules")

    def failure_reason(self) -> str:
        """The first error in the log, else the last line. Later errors of vLLM only repeat that its engine died."""
        lines = [line.strip() for line in self._tail().splitlines() if line.strip()]
        errors = (match[0] for line in lines if not _REMARK.match(line) and (match := _ERROR.search(line)))
        return next(errors, lines[-1] if lines else "it logged nothing")[:SENTENCE_CHARS]

    def _copy_and_empty(self, size: int) -> int:
        """Returns the size of the log in bytes. The copy has at most the last 2 * MAX_LOG_BYTES of them."""
        with self.path.open("rb+", buffering=0) as source, self._old().open("wb") as copy:
            source.seek(max(0, size - 2 * MAX_LOG_BYTES))
            try:
                while os.sendfile(copy.fileno(), source.fileno(), None, MAX_LOG_BYTES):
                    pass
            except OSError:
                self._path(1).unlink()
                raise
            end = source.tell()
            source.truncate(0)
        return end

    def _path(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _old(self, number: int = 1) -> Path:
        """Path for the next old log. Existing ones are renumbered; the oldest is overwritten."""
        path = self._path(number)
        if number < KEPT_LOGS and path.exists():
            path.replace(self._old(number + 1))
        return path

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _tail(self) -> str:
        size = self._size()
        begin = max(min(self._start, size), size - TAIL_BYTES)
        older = _read(self._path(1), begin) if begin < 0 else b""
        return (older + _read(self.path, max(begin, 0))).decode("utf-8", errors="replace")


def _read(path: Path, begin: int) -> bytes:
    """The content from `begin`; a negative value counts from the end. Empty if there is no file."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(begin if begin >= 0 else max(0, file.seek(0, os.SEEK_END) + begin))
        return file.read()
