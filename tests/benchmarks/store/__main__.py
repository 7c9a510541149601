"""`make bench-store`: the cost of each operation at 10 k, 100 k and 1 M reports; one JSON line.

Milliseconds of CPU on SQLite, of time on PostgreSQL, whose work is done in its own processes: the median of several
calls. `growth` is the cost at the largest store over that at the smallest. Costs below `FLOOR_MS` count as that much,
because they are noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from daemon.config import Config
from daemon.store import Store, open_store
from tests.benchmarks.report import keep
from tests.benchmarks.store.filling import filled
from tests.benchmarks.store.operations import operations
from tests.fixtures.stores import running_postgres

ROWS = (10_000, 100_000, 1_000_000)
CALLS = 5
FLOOR_MS = 2.0


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    results = []
    for backend in given.backend or ["sqlite", "postgresql"]:
        costs = {rows: measured(backend, rows) for rows in given.rows or ROWS}
        results.append(growth(backend, costs))
    keep("store", command="make bench-store", figures={"backends": results})
    for result in results:
        print(json.dumps(result))
    return 0


def growth(backend: str, costs: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """The ratios of the costs (ms, by number of reports and operation) at the largest store to the smallest."""
    first, last = costs[min(costs)], costs[max(costs)]
    ratios = {name: round(max(last[name], FLOOR_MS) / max(first[name], FLOOR_MS), 2) for name in first}
    worst = max(ratios, key=lambda name: ratios[name])
    return {
        "backend": backend,
        "rows": [min(costs), max(costs)],
        "growth": ratios,
        "worst": [worst, ratios[worst]],
        "ms": {str(rows): {name: round(cost, 2) for name, cost in of.items()} for rows, of in costs.items()},
    }


def measured(backend: str, rows: int) -> dict[str, float]:
    """Milliseconds of each operation, in a new store with this number of reports."""
    clock = time.process_time if backend == "sqlite" else time.perf_counter
    with tempfile.TemporaryDirectory() as folder, _store(backend, Path(folder)) as store:
        started = time.perf_counter()
        filled(store, rows)
        print(f"{backend}: {rows:,} reports, filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        config = Config.model_validate({"model": {"path": folder}, "data_dir": folder})
        return {
            name: median(_ms(work, clock) for _ in range(CALLS))
            for name, work in operations(store, config, Path(folder)).items()
        }


def _ms(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) * 1000


@contextmanager
def _store(backend: str, folder: Path) -> Iterator[Store]:
    if backend == "sqlite":
        store = open_store(f"sqlite:///{folder}/erratad.sqlite3")
        yield store
        store.close()
        return
    with running_postgres() as server:
        store = open_store(server.url(server.create_database()))
        yield store
        store.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["sqlite", "postgresql"], help="default: both")
    parser.add_argument("--rows", action="append", type=int, help="may be repeated; default: 10 k, 100 k and 1 M")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
