"""Shared code of the child processes that load torch: environment, stop signal, end together with the daemon."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Protocol

import psutil

DAEMON_PID_VARIABLE = "ERRATAD_DAEMON_PID"
_PR_SET_PDEATHSIG = 1


def environment(threads: int | None) -> dict[str, str]:
    """The daemon's environment, plus settings that limit torch beside a server. `threads` None: torch decides."""
    return {
        **os.environ,
        **torch_settings(threads),
        DAEMON_PID_VARIABLE: str(os.getpid()),
    }


def torch_settings(threads: int | None) -> dict[str, str]:
    """Variables that keep torch and transformers small and off the network. `threads` None: torch decides."""
    return {
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def die_with_the_daemon() -> None:
    """Make the kernel send SIGTERM to this process when its parent dies for any reason."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # the daemon may have died before `prctl`: then no signal comes
    daemon = os.environ.get(DAEMON_PID_VARIABLE)
    if daemon is not None and not psutil.pid_exists(int(daemon)):
        raise SystemExit("the daemon died before the work began; its next start repeats the work")


class Stop(Protocol):
    """A request to end the work soon."""

    def is_set(self) -> bool: ...


class StopSignal:
    """SIGTERM as a flag without a lock.

    The kernel sends one signal for each thread of a dying parent, so a handler can interrupt another one. `Event.set`
    would then deadlock, and the orphan would hold its run permanently.
    """

    def __init__(self) -> None:
        self._received = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_: object) -> None:
        self._received = True

    def is_set(self) -> bool:
        return self._received


def describe(returncode: int) -> str:
    """The end of a child in words."""
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"exited with code {returncode}"
