"""Taking in messages: what validation and the report table cost over a bare JSON parse and a bare insert."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from connectors.messages import decode
from daemon.records import Source
from daemon.store import open_store
from tests.fixtures.config import flagged

MESSAGES = 5_000
BATCH = 200
ROUNDS = 3


def measure() -> dict[str, float]:
    """Medians over `ROUNDS`; `*_ratio` is erratad's time over the peer's: above 1 is slower."""
    raw = [flagged().encode() for _ in range(MESSAGES)]
    decoding = median(_seconds(lambda: [decode(message) for message in raw]) for _ in range(ROUNDS))
    parsing = median(_seconds(lambda: [json.loads(message) for message in raw]) for _ in range(ROUNDS))
    storing = median(_store(raw) for _ in range(ROUNDS))
    inserting = median(_bare_insert(raw) for _ in range(ROUNDS))
    return {
        "messages": MESSAGES,
        "batch": BATCH,
        "decode_messages_per_s": round(MESSAGES / decoding),
        "decode_over_json_ratio": round(decoding / parsing, 2),
        "store_messages_per_s": round(MESSAGES / storing),
        "store_over_bare_insert_ratio": round(storing / inserting, 2),
    }


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _store(raw: list[bytes]) -> float:
    messages = [(decode(message), Source(channel="bench")) for message in raw]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/bench.sqlite3")

        def add() -> None:
            for start in range(0, MESSAGES, BATCH):
                store.reports.add(messages[start : start + BATCH], reporter_cap=10 * MESSAGES)

        seconds = _seconds(add)
        store.close()
    return seconds


def _bare_insert(raw: list[bytes]) -> float:
    """The peer: the same bytes under the same key into SQLite with the same durability, and no rules at all."""
    rows = [(json.loads(message)["id"], message) for message in raw]
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "bare.sqlite3", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE reports (id TEXT PRIMARY KEY, raw BLOB)")

        def add() -> None:
            for start in range(0, MESSAGES, BATCH):
                connection.execute("BEGIN")
                connection.executemany("INSERT OR IGNORE INTO reports VALUES (?, ?)", rows[start : start + BATCH])
                connection.execute("COMMIT")

        seconds = _seconds(add)
        connection.close()
    return seconds
