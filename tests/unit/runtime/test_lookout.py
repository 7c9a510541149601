"""What another process writes wakes the stages of this one."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from daemon.errors import StoreUnavailableError
from daemon.records import Source
from daemon.runtime.lookout import look_out
from daemon.store import Changes, Store, open_store
from tests.fixtures.config import flagged


@pytest.fixture
def other(sqlite_store: Store) -> Store:
    """The same database, as another process sees it."""
    with closing(open_store(str(sqlite_store.engine.url))) as store:
        yield store


def _looks(store: Store) -> bool:
    """Whether a look finds something."""
    before = store.changes.commits.count
    store.changes.look()
    return store.changes.commits.count > before


def test_a_report_and_an_operators_action_of_another_process_are_found_and_each_once(
    sqlite_store: Store, other: Store
) -> None:
    _looks(sqlite_store)
    assert not _looks(sqlite_store)
    other.reports.add([(flagged(id="new"), Source(channel="http"))])
    assert _looks(sqlite_store)
    other.control.pause("reflection", actor="op", reason="freeze")
    assert _looks(sqlite_store)
    other.control.resume("reflection", actor="op", reason="over")
    assert _looks(sqlite_store)
    assert not _looks(sqlite_store)


def test_heartbeats_and_leases_of_another_process_are_no_work(sqlite_store: Store, other: Store) -> None:
    _looks(sqlite_store)
    other.control.heartbeat({"ingest": "waits"}, owner="there")
    other.control.lead("leader", owner="there", ttl_s=30)
    assert not _looks(sqlite_store)


def test_what_this_process_writes_counts_at_once_except_heartbeats_and_leases(sqlite_store: Store) -> None:
    commits = sqlite_store.changes.commits
    before = commits.count
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="here")
    sqlite_store.control.lead("leader", owner="here", ttl_s=30)
    assert commits.count == before
    sqlite_store.control.pause("reflection", actor="op", reason="freeze")
    assert commits.count == before + 1


class _Away(Changes):
    """Fails at the first look, and stops the lookout at the second."""

    def __init__(self, store: Store, stop: threading.Event) -> None:
        super().__init__(store.engine)
        self.looks = 0
        self._stop = stop

    def look(self) -> None:
        self.looks += 1
        if self.looks == 1:
            raise StoreUnavailableError("away")
        self._stop.set()


def test_the_lookout_goes_on_after_an_outage_and_wakes_the_stages_at_the_stop(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runtime.lookout.LOOK_S", 0.001)
    stop = threading.Event()
    changes = _Away(sqlite_store, stop)
    before = changes.commits.count
    look_out(changes, stop)
    assert (changes.looks, changes.commits.count) == (2, before + 1)
