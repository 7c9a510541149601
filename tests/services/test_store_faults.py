"""Faults: a process killed in the middle of its writes, and a database that goes away and comes back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text, update

from daemon.errors import StoreUnavailableError
from daemon.records import ReportState
from daemon.store import Added, Store, schema
from daemon.store.engine import transaction
from tests.fixtures.config import flagged
from tests.fixtures.stores import PostgresServer, add, lesson, url_of

BATCH = 7
WRITER = f"""
import sys
from daemon.store import open_store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add
store = open_store(sys.argv[1])
for batch in range(10_000):
    ids = [f"{{sys.argv[2]}}-{{batch}}-{{n}}" for n in range({BATCH})]
    add(store, *[flagged(id=one, response=one) for one in ids], reporter_cap=10**6)
    print(*ids, flush=True)
"""


@pytest.mark.parametrize("commits", [1, 9])
def test_a_writer_killed_at_any_instant_loses_nothing_that_it_committed(store: Store, commits: int) -> None:
    """After SIGKILL every acknowledged batch is stored, and the current batch completely or not at all."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url_of(store), "killed"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    committed = [name for _ in range(commits) for name in writer.stdout.readline().split()]
    writer.send_signal(signal.SIGKILL)
    committed += [name for line in writer.stdout for name in line.split()]
    writer.wait()
    writer.stdout.close()
    stored = {report.id for report in store.reports.find(limit=100_000)}
    assert len(committed) >= commits * BATCH
    assert stored >= set(committed)
    assert len(stored) % BATCH == 0
    assert add(store, flagged()) == [Added.STORED]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_goes_away_is_unavailable_and_works_again_when_it_is_back(
    own_postgres: PostgresServer, open_stores: Callable[[str], Store], mode: str
) -> None:
    store = open_stores(own_postgres.url("postgres"))
    before, after = flagged(), flagged()
    add(store, before)
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=600)
    own_postgres.stop(mode)
    for attempt in (
        store.control.pauses,
        lambda: add(store, after),
        lambda: store.reports.complete(claim, lesson(before.id)),
        lambda: store.control.paused("ingest"),
    ):
        with pytest.raises(StoreUnavailableError, match="tries again"):
            attempt()
    own_postgres.start()
    store.control.pauses()
    assert add(store, before, after) == [Added.REDELIVERED, Added.STORED]
    store.reports.complete(claim, lesson(before.id))
    assert store.reports.get(before.id).state == ReportState.LESSON


def test_a_transaction_whose_connection_is_cut_changes_nothing(
    own_postgres: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(own_postgres.url("postgres"))
    connection_lost = False
    try:
        with transaction(store.engine) as connection:
            connection.execute(update(schema.adapters).values(reason="half"))
            own_postgres.stop("fast")
            connection.execute(update(schema.adapters).values(reason="whole"))
    except StoreUnavailableError:
        connection_lost = True
    assert connection_lost
    own_postgres.start()
    assert store.adapters.live().reason is None


def test_sessions_that_an_administrator_ends_are_replaced(
    own_postgres: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(own_postgres.url("postgres"))
    administrator = open_stores(own_postgres.url("postgres"))
    store.control.pauses()
    with transaction(administrator.engine) as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(f"{others} AND application_name = 'erratad'"))
    assert add(store, flagged()) == [Added.STORED]


def test_a_consumer_that_repeats_its_batches_through_an_outage_stores_each_message_once(
    own_postgres: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(own_postgres.url("postgres"))
    messages = [flagged() for _ in range(400)]
    outages = 0
    halfway, back = threading.Event(), threading.Event()

    def consume() -> None:
        nonlocal outages
        for start in range(0, len(messages), 10):
            if start == 200:
                halfway.set()
            while True:
                try:
                    add(store, *messages[start : start + 10])
                    break
                except StoreUnavailableError:
                    outages += 1
                    back.wait(timeout=60)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert halfway.wait(timeout=60)
    own_postgres.stop("immediate")
    own_postgres.start()
    back.set()
    consumer.join(timeout=120)
    assert not consumer.is_alive()
    assert {report.id for report in store.reports.find(limit=1000)} == {message.id for message in messages}
