"""`make bench-store`: the cost of each operation at 10 k, 100 k and 1 M reports; one JSON line.

Milliseconds of CPU of this process and, on PostgreSQL, of the server's processes: the least of several calls, so that
what else the machine does matters little. `growth` is the cost at the largest store over that at the smallest. Costs
below `FLOOR_MS` count as that much, because they are noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from daemon.config import Config
from daemon.intake.stage import FeedbackIntake
from daemon.operations.health import Health
from daemon.runtime.stage import LastSteps
from daemon.store import Store
from daemon.web.app import create_app
from tests.benchmarks.report import keep
from tests.benchmarks.store.filling import filled
from tests.benchmarks.store.operations import operations
from tests.benchmarks.store.stores import opened
from tests.fakes.fleet import fleet_of

ROWS = (10_000, 100_000, 1_000_000)
CALLS = 7
FLOOR_MS = 2.0


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    results = []
    for backend in given.backend or ["sqlite", "postgresql"]:
        costs = _earlier(given.costs, backend)
        for rows in given.rows or ROWS:
            costs[rows] = measured(backend, rows)
            _note(given.costs, backend, costs)
        results.append(growth(backend, costs))
    keep("store", command="make bench-store", figures={"backends": results})
    for result in results:
        print(json.dumps(result))
    return 0


def _earlier(file: Path | None, backend: str) -> dict[int, dict[str, float]]:
    noted = json.loads(file.read_text()) if file is not None and file.exists() else {}
    return {int(rows): of for rows, of in noted.get(backend, {}).items()}


def _note(file: Path | None, backend: str, costs: Mapping[int, Mapping[str, float]]) -> None:
    if file is not None:
        noted = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**noted, backend: costs}))


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
    with tempfile.TemporaryDirectory() as folder, opened(backend, Path(folder)) as (store, clock):
        started = time.perf_counter()
        filled(store, rows)
        print(f"{backend}: {rows:,} reports, filled in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        config = Config.model_validate({"model": {"path": folder}, "data_dir": folder})
        with TestClient(_app(store, config), base_url="http://127.0.0.1:8077") as client:
            works = operations(store, config, client, Path(folder))
            return {name: min(_ms(work, clock) for _ in range(CALLS)) for name, work in works.items()}


def _app(store: Store, config: Config) -> FastAPI:
    health = Health(last_steps=LastSteps(), store=store, fleet=fleet_of(), base_name="base", max_stall_s=120)
    return create_app(
        store=store, intake=FeedbackIntake(reports=store.reports, config=config.intake), config=config, health=health
    )


def _ms(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return (clock() - started) * 1000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["sqlite", "postgresql"], help="default: both")
    parser.add_argument("--costs", type=Path, help="a JSON file: costs of earlier pieces count, and new ones are added")
    parser.add_argument("--rows", action="append", type=int, help="may be repeated; default: 10 k, 100 k and 1 M")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
