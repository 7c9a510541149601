"""What is looked at after each run: the daemon's process, its folders, its database and its metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from sqlalchemy import func, inspect, select, table, text

from tests.benchmarks.soak.stand import Stand
from tests.fixtures.http import CLIENT

MIB = 2**20
DATABASE = "erratad.sqlite3"
FOLDERS = ("adapters", "runs", "chat")
SHADOWS = ("_data", "_idx", "_content", "_docsize", "_config")
"""Ends of the names of the tables in which SQLite keeps its index of searches."""


def sample(stand: Stand) -> dict[str, float]:
    """Figure -> value now; sizes in MiB."""
    return {**_process(stand.daemon.pid), **_disk(stand), **_rows(stand), "series": _series(stand)}


def cpu_seconds(stand: Stand) -> float:
    """Processor time of the daemon's process and its children, and of forked trainers, that ended so far."""
    pids = [stand.daemon.pid, *([] if stand.trainers is None else [stand.trainers.pid])]
    return sum(sum(psutil.Process(pid).cpu_times()[:4]) for pid in pids)


def _process(pid: int) -> dict[str, float]:
    process = psutil.Process(pid)
    with process.oneshot():
        children = process.children(recursive=True)
        return {
            "memory_mib": process.memory_info().rss / MIB,
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "children": len(children),
        }


def _disk(stand: Stand) -> dict[str, float]:
    found: dict[str, float] = dict.fromkeys((*FOLDERS, "other", "store"), 0.0)
    for path, size in _files(stand.data_dir):
        first = path.relative_to(stand.data_dir).parts[0]
        kind = first if first in FOLDERS else "store" if first.startswith(DATABASE) else "other"
        found[kind] += size
    if stand.postgres is not None:
        with stand.store.engine.connect() as connection:
            found["store"] = connection.execute(text("select pg_database_size(current_database())")).scalar_one()
    found["log"] = stand.daemon.log.stat().st_size
    sizes = {f"{kind}_mib": size / MIB for kind, size in found.items()}
    folders = {f"{kind}_folders": len(_entries(stand.data_dir / kind)) for kind in ("adapters", "runs")}
    return {**sizes, **folders}


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Files with their sizes on disk; some vanish while they are counted."""
    for name, _, files in os.walk(folder):
        for file in files:
            path = Path(name) / file
            try:
                yield path, path.stat().st_blocks * 512
            except FileNotFoundError:
                continue


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _rows(stand: Stand) -> dict[str, float]:
    with stand.store.engine.connect() as connection:
        names = [one for one in inspect(connection).get_table_names() if not one.endswith(SHADOWS)]
        return {
            f"rows.{name}": connection.execute(select(func.count()).select_from(table(name))).scalar_one()
            for name in names
        }


def _series(stand: Stand) -> int:
    return sum(not line.startswith("#") for line in CLIENT.get(f"{stand.daemon.url}/metrics").text.splitlines())
