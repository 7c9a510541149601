"""What the child processes that load torch have in common: their environment, and their end with the daemon's."""

from __future__ import annotations

import ctypes
import os
import signal

import psutil

DAEMON_PID_VARIABLE = "ERRATAD_DAEMON_PID"
_PR_SET_PDEATHSIG = 1


def environment(threads: int | None) -> dict[str, str]:
    """The daemon's own, with what keeps torch quiet beside a server; `threads` None: torch chooses."""
    return {
        **os.environ,
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        DAEMON_PID_VARIABLE: str(os.getpid()),
    }


def die_with_the_daemon() -> None:
    """Have the kernel send SIGTERM when the parent dies, however it dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    daemon = os.environ.get(DAEMON_PID_VARIABLE)
    if daemon is not None and not psutil.pid_exists(int(daemon)):
        raise SystemExit("the daemon died before the work began; it starts again with the daemon")


class StopSignal:
    """SIGTERM as a flag without a lock.

    The kernel sends one for each thread of a parent that dies, and a handler runs amid the one before: `Event.set`
    would wait there for itself, and an orphan would hold its run for ever.
    """

    def __init__(self) -> None:
        self._came = False
        signal.signal(signal.SIGTERM, self._come)

    def _come(self, *_: object) -> None:
        self._came = True

    def is_set(self) -> bool:
        return self._came


def describe(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"exited with code {returncode}"
