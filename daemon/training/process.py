"""Starting and ending the training child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from daemon.runtime.child import environment
from daemon.training.job import JOB_FILE, LOG_FILE, TrainingJob

STOP_GRACE_S = 60.0
"""A child that was asked to stop finishes its optimiser step and writes a checkpoint; then it is killed."""
_TAIL_BYTES = 4000
_TAIL_LINES = 8


def start(job: TrainingJob, *, launcher: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the child; its output is appended to the run's log.

    Raises:
        OSError: when the launcher or the log cannot be used.
    """
    with (job.run_folder / LOG_FILE).open("ab") as output:
        return subprocess.Popen(
            [*launcher, sys.executable, "-m", "daemon.training.trainer", str(job.run_folder / JOB_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(job.training.threads),
            start_new_session=True,  # Ctrl-C reaches the daemon, which stops the child in its own way
        )


def end(child: subprocess.Popen[bytes]) -> None:
    """Have the child write a checkpoint and leave; nothing of it is left behind."""
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_GRACE_S)
    with suppress(ProcessLookupError):  # workers of a launcher that outlived it
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all that it started (a launcher's workers); 0 for one that is gone."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += member.memory_info().rss
    return total


def log_tail(run_folder: Path) -> str:
    """The end of the run's log, for a reason that stands in the store; empty when there is no log."""
    path = run_folder / LOG_FILE
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines[-_TAIL_LINES:] if line.strip())
