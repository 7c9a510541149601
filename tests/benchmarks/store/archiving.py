"""`python -m tests.benchmarks.store.archiving`: what it costs to archive and restore reports on SQLite; one JSON line.

The reports have a lesson each, and no measured answers. Sizes are bytes of used pages: a database keeps freed ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence

from daemon.config import Config
from daemon.operations.archiving import Archiver
from daemon.records import ReportState
from daemon.store import Store, open_store
from tests.benchmarks.store.filling import filled
from tests.fixtures.stores import force

SHARES = {ReportState.RESOLVED: 0.8, ReportState.NOT_REPRODUCED: 0.1, ReportState.BURIED: 0.1}
BATCH = 2000


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=130_000, help="reports in the store; those of past months move")
    rows = parser.parse_args(arguments).rows
    with tempfile.TemporaryDirectory() as folder:
        config = Config.model_validate(
            {"model": {"path": folder}, "data_dir": folder, "storage": {"archive": {"after_days": 60, "batch": BATCH}}}
        )
        store = open_store(config)
        filled(store, rows, shares=SHARES)
        force(store, "UPDATE reports SET model = 'elsewhere'")  # those of the live generation would stay
        while store.search_index.fill():
            pass
        print(json.dumps({"rows": rows, **measured(store, Archiver(store, config))}))
        store.close()
    return 0


def measured(store: Store, archiver: Archiver) -> dict[str, object]:
    before, started, slowest, place = used(store), time.process_time(), 0.0, None
    while True:
        step_at = time.process_time()
        place = archiver.move(place).place
        slowest = max(slowest, time.process_time() - step_at)
        if place is None:
            break
    cpu_s, files = time.process_time() - started, store.archive.files()
    count = store.archive.total()
    restored_at = time.process_time()
    back = archiver.restore(files[:1], actor="bench", reason="measured")
    restore_s, after = time.process_time() - restored_at, used(store)
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
    with store.engine.connect() as connection:
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
