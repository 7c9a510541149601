"""Asks the child process that compiles and runs rules, and starts it when it is needed.

The child decides each question within a limit of CPU time and of memory, or it is replaced. Its death, whatever the
reason, costs the one question.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from connectors.checker import bounds

DOOR_S = 0.3
"""CPU seconds for one look at a rule that arrives."""
WAIT_S = 60.0
"""The child has this long on a machine that gives it little time; then it is replaced."""
_NEEDED = ("PATH", "LD_LIBRARY_PATH")
"""The child gets no other variable: some are secrets."""
_ROOT = Path(__file__).parents[2]
_START = "import sys; sys.path.insert(0, sys.argv[1]); from connectors.checker.process import main; main()"

Job = Literal["pattern", "schema", "search", "validate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The child's answer."""

    fault: str | None = None
    """What is wrong, as the end of a sentence; None: nothing."""
    undecided: Literal["", "time", "memory", "error", "crash"] = ""
    """Why there is no decision."""
    cpu_s: float = 0.0


@lru_cache(maxsize=2000)
def pattern_fault(pattern: str) -> str | None:
    """Why a pattern cannot be used; None: it can."""
    return bounds.pattern_excess(pattern) or _at_the_door("pattern", pattern=pattern)


def schema_fault(schema: Any) -> str | None:
    """Why a JSON Schema (2020-12) cannot be used; None: it can."""
    return bounds.schema_excess(schema) or _schema_fault(json.dumps(schema))


@lru_cache(maxsize=200)
def _schema_fault(schema: str) -> str | None:
    return _at_the_door("schema", schema=json.loads(schema))


def _at_the_door(job: Job, **rule: Any) -> str | None:
    verdict = ask(job, timeout_s=DOOR_S, **rule)
    if verdict.undecided:
        return f"cannot be prepared within the limits ({verdict.undecided}); simplify it"
    return verdict.fault


def ask(job: Job, *, timeout_s: float, **rule: Any) -> Verdict:
    """Have the child decide. Thread-safe; `timeout_s`: CPU seconds.

    "search": `pattern`, `text`. "validate": `schema`, `text` (JSON, in one code fence or none).
    """
    return _CHILD.ask({"job": job, "timeout_s": max(timeout_s, 0.001), **rule})


class _Child:
    """The process, one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: dict[str, Any]) -> Verdict:
        line = json.dumps(question).encode() + b"\n"
        with self._lock:
            for _ in range(2):  # the process may have been killed since the last question
                try:
                    verdict = Verdict(**json.loads(_answer(self._started(), line)))
                except (OSError, EOFError):
                    self.close()
                except BaseException:  # an answer that is still to come must not be taken for the next one's
                    self.close()
                    raise
                else:
                    return replace(verdict, cpu_s=question["timeout_s"]) if verdict.undecided else verdict
        return Verdict(undecided="crash")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, str(_ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # an error may quote a report
                env={name: os.environ[name] for name in _NEEDED if name in os.environ},
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        return self._process

    def forget(self) -> None:
        """In a fork of this process: the child belongs to the parent."""
        self._lock = threading.Lock()
        self._process = None

    def close(self) -> None:
        """End the process; the next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()


def _answer(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
    assert process.stdout is not None  # noqa: S101
    rest = memoryview(line)
    while rest:
        rest = rest[process.stdin.write(rest) :]
    answer, deadline = b"", time.monotonic() + WAIT_S
    while not answer.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise EOFError
        found = process.stdout.read(65_536)
        if not found:
            raise EOFError
        answer += found
    return answer


_CHILD = _Child()
os.register_at_fork(after_in_child=_CHILD.forget)
atexit.register(_CHILD.close)
