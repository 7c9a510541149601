"""Empty stores of both databases, with a clock of the CPU that their work takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.store import Store, open_store
from tests.fixtures.stores import running_postgres

Clock = Callable[[], float]


@contextmanager
def opened(backend: str, folder: Path) -> Iterator[tuple[Store, Clock]]:
    """An empty store, and a clock of the CPU seconds that its work takes: of this process and of PostgreSQL's."""
    if backend == "sqlite":
        store = open_store(f"sqlite:///{folder}/erratad.sqlite3")
        yield store, time.process_time
        store.close()
        return
    with running_postgres() as server:
        # the work of parallel workers, which end with their query, would not be seen
        options = "?options=-c%20max_parallel_workers_per_gather%3D0"
        store = open_store(server.url(server.create_database()) + options)
        yield store, lambda: time.process_time() + server.cpu_s()
        store.close()
