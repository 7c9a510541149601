"""What a server costs, over all processes of its session."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def memory_bytes(session: int) -> int:
    """What the processes share is counted once."""
    total = 0
    for process, _ in _members(session):
        with suppress(OSError):
            pss = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
            total += int(pss[1]) * 1024 if pss else 0
    return total


def cpu_seconds(session: int) -> float:
    """Processor time used so far: what other processes on the machine do does not show in it, unlike in the clock."""
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _members(session)) / _TICKS_PER_S


def _members(session: int) -> Iterator[tuple[Path, list[str]]]:
    """Each process with the fields of its `stat` after the name."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    yield process, fields
