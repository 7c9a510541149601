"""`python -m tests.benchmarks.store.archiving`: what it costs to archive and restore reports; one JSON line.

The reports have a lesson each, and no measured answers. Sizes are bytes: on SQLite of used pages, because a database
keeps freed ones; on PostgreSQL of the database after a VACUUM.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from daemon.config import Config
from daemon.operations.archiving import Archiver
from daemon.records import ReportState
from daemon.store import Store
from tests.benchmarks.store.filling import filled
from tests.benchmarks.store.stores import Clock, opened
from tests.fixtures.stores import force

SHARES = {ReportState.RESOLVED: 0.8, ReportState.NOT_REPRODUCED: 0.1, ReportState.BURIED: 0.1}
BATCH = 2000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=130_000, help="reports in the store; those of past months move")
    parser.add_argument("--backend", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, opened(given.backend, Path(folder)) as (store, clock):
        config = Config.model_validate(
            {"model": {"path": folder}, "data_dir": folder, "storage": {"archive": {"after_days": 60, "batch": BATCH}}}
        )
        filled(store, given.rows, shares=SHARES)
        force(store, "UPDATE reports SET model = 'elsewhere'")  # those of the live generation would stay
        while store.search_index.fill():
            pass
        cost = measured(store, Archiver(store, config), clock)
        print(json.dumps({"backend": given.backend, "rows": given.rows, **cost}))
    return 0


def measured(store: Store, archiver: Archiver, clock: Clock) -> dict[str, object]:
    before, started, slowest, place = used(store), clock(), 0.0, None
    while True:
        step_at = clock()
        place = archiver.move(place).place
        slowest = max(slowest, clock() - step_at)
        if place is None:
            break
    cpu_s, files = clock() - started, store.archive.files()
    count = store.archive.total()
    restored_at = clock()
    back = archiver.restore(files[:1], actor="bench", reason="measured")
    restore_s, after = clock() - restored_at, used(store)
    return {
        "archived": count,
        "files": len(files),
        "cpu_s": round(cpu_s, 1),
        "slowest_file_cpu_s": round(slowest, 2),
        "file_bytes_per_report": round(sum(one.size_bytes for one in files) / count),
        "store_bytes_before": before,
        "store_bytes_after": after,
        "restored": len(back),
        "restore_cpu_s": round(restore_s, 2),
    }


def used(store: Store) -> int:
    """Bytes of the pages in use."""
    if store.engine.dialect.name == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM")
            return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    with store.engine.connect() as connection:
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
