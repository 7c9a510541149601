"""The runner `local`: the trainer is a child process of the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.artifacts.run_folder import JOB_FILE
from daemon.runtime.child import describe, environment
from daemon.training.job import LOG_FILE, PROGRESS_FILE, TrainingJob, run_lock

STOP_GRACE_S = 60.0
"""Time for the child to finish its optimiser step and write a checkpoint before it is killed."""
_TAIL_BYTES = 4000
_TAIL_LINES = 8


class LocalRunner:
    """Starts the trainer as a child process, which ends together with the daemon."""

    poll_s = 0.5

    def __init__(self, launcher: Sequence[str]) -> None:
        self._launcher = launcher

    def busy(self, run_folder: Path) -> bool:
        with run_lock(run_folder) as free:
            return not free

    def start(self, job: TrainingJob) -> LocalAttempt:
        (job.run_folder / PROGRESS_FILE).unlink(missing_ok=True)
        return LocalAttempt(start_trainer(job, launcher=self._launcher))

    def forget(self, run_folder: Path) -> bool:
        """False: the child of a killed daemon ends by itself."""
        del run_folder
        return False


class LocalAttempt:
    """One child process."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def __str__(self) -> str:
        return f"process {self._child.pid}"

    @property
    def waits(self) -> None:
        """A child process does not wait for its machine."""

    def ended(self) -> str | None:
        code = self._child.poll()
        return None if code is None else describe(code)

    def resident_bytes(self) -> int:
        return resident_bytes(self._child.pid)

    def stop(self) -> None:
        stop_trainer(self._child)


def start_trainer(job: TrainingJob, *, launcher: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the child; its output is appended to the log of the run.

    Raises:
        OSError: if the launcher or the log cannot be used.
    """
    with (job.run_folder / LOG_FILE).open("ab") as output:
        return subprocess.Popen(
            [*launcher, sys.executable, "-m", "daemon.training.trainer", str(job.run_folder / JOB_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(job.training.threads),
            start_new_session=True,  # Ctrl-C reaches only the daemon, which then stops the child
        )


def stop_trainer(child: subprocess.Popen[bytes]) -> None:
    """Let the child write a checkpoint, then end it and all its workers."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_GRACE_S)
    with suppress(ProcessLookupError):  # workers may outlive their launcher
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants (the workers of a launcher); 0 if it has ended."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def log_tail(run_folder: Path) -> str:
    """The last lines of the run's log, to be stored with a failure; empty if there is no log."""
    path = run_folder / LOG_FILE
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines[-_TAIL_LINES:] if line.strip())
