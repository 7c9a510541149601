"""What a server costs, over all processes of its session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil


def memory_bytes(session: int) -> int:
    """What the processes share is counted once."""
    total = 0
    for process in _members(session):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def cpu_seconds(session: int) -> float:
    """Processor time used so far: what other processes on the machine do does not show in it, unlike in the clock."""
    total = 0.0
    for process in _members(session):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _members(session: int) -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(pid) == session:
                yield psutil.Process(pid)
