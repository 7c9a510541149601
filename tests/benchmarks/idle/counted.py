"""The daemon, with its SQL counted: `python -m tests.benchmarks.idle.counted FILE run --config ...`.

FILE holds two numbers of eight bytes: the statements, and the transactions that changed a row.
"""

from __future__ import annotations

import mmap
import struct
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

COUNTERS = struct.Struct("<qq")
CHANGES = ("INSERT", "UPDATE", "DELETE")
_WROTE = "erratad_bench_wrote"


def count_into(counters: Any) -> None:
    """Count the statements and the writing transactions of every engine of this process. `counters`: a buffer."""

    @event.listens_for(Engine, "before_cursor_execute")
    def _statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(CHANGES):
            connection.info[_WROTE] = True
        _add(counters, statements=1)

    @event.listens_for(Engine, "commit")
    def _commit(connection: Connection) -> None:
        _add(counters, writes=int(connection.info.pop(_WROTE, False)))


def _add(counters: Any, *, statements: int = 0, writes: int = 0) -> None:
    before = COUNTERS.unpack_from(counters)
    COUNTERS.pack_into(counters, 0, before[0] + statements, before[1] + writes)


if __name__ == "__main__":
    with Path(sys.argv.pop(1)).open("r+b") as file:
        count_into(mmap.mmap(file.fileno(), COUNTERS.size))
    from connectors.entry import main

    main()
