"""Connections: outages, waits of readers, clock and time zone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError, StatementError

from daemon.config import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.records import utcnow
from daemon.store import Store, open_store, schema
from daemon.store.engine import database_time, reading, transaction
from tests.fixtures.config import flagged
from tests.fixtures.stores import PostgresServer, add, url_of


def test_a_store_opens_with_a_configuration(make_config: Callable[..., Config]) -> None:
    config = make_config(serving={"alias": "helper"})
    store = open_store(config)
    assert store.adapters.live().name == "helper-g000000"
    store.close()
    assert (config.data_dir / "erratad.sqlite3").exists()


def test_a_store_opens_again_with_what_it_held(store: Store, open_stores: Callable[[str], Store]) -> None:
    add(store, flagged(id="kept"))
    again = open_stores(url_of(store))
    assert again.reports.get("kept") == store.reports.get("kept")
    assert again.adapters.live() == store.adapters.live()
    again.control.pauses()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("no url", "not a database URL"),
        ("mysql://localhost/erratad", "mysql is not supported"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
    ],
)
def test_an_unusable_url_is_refused_with_the_key_that_holds_it(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"store\.url.*{says}"):
        open_store(url)


def test_a_server_that_refuses_connections_is_unavailable_and_its_password_stays_secret() -> None:
    with pytest.raises(StoreUnavailableError, match="does not answer") as caught:
        open_store("postgresql://erratad:hunter2@127.0.0.1:1/erratad")
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match="cannot make"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'erratad.sqlite3'}")


def test_a_database_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "erratad.sqlite3").mkdir()
    with pytest.raises(StoreUnavailableError, match="unable to open"):
        open_store(f"sqlite:///{tmp_path / 'erratad.sqlite3'}")


def test_a_mistake_in_a_statement_is_no_outage(store: Store) -> None:
    with pytest.raises(DBAPIError, match="no_such_table"), transaction(store.engine) as connection:
        connection.execute(text("SELECT * FROM no_such_table"))


def test_readers_go_on_while_a_writer_is_at_work(store: Store) -> None:
    add(store, flagged(id="before"))
    seen: list[str] = []
    with transaction(store.engine) as connection:
        connection.execute(update(schema.adapters).values(reason="changing"))
        reader = threading.Thread(target=lambda: seen.extend(report.id for report in store.reports.find()))
        reader.start()
        reader.join(timeout=20)
        assert not reader.is_alive()
    assert seen == ["before"]


def test_a_reading_transaction_sees_one_state_and_blocks_no_writer(sqlite_store: Store) -> None:
    with reading(sqlite_store.engine) as connection:
        query = text("SELECT count(*) FROM reports")
        assert connection.execute(query).scalar() == 0
        add(sqlite_store, flagged())
        assert connection.execute(query).scalar() == 0
    assert len(sqlite_store.reports.find()) == 1


def test_a_writer_that_waits_too_long_finds_the_store_unavailable(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.store.engine.SQLITE_BUSY_TIMEOUT_S", 0.1)
    impatient = open_store(url_of(sqlite_store))
    with transaction(sqlite_store.engine), pytest.raises(StoreUnavailableError, match="locked"):
        add(impatient, flagged())
    impatient.close()
    add(sqlite_store, flagged())


def test_a_lock_that_is_held_too_long_makes_the_store_unavailable(
    postgres_server: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    name = postgres_server.create_database()
    holder = open_stores(postgres_server.url(name))
    impatient = open_stores(postgres_server.url(name) + "?options=-c%20lock_timeout%3D100")
    with transaction(holder.engine) as connection:
        connection.execute(update(schema.adapters).values(reason="busy"))
        with (
            pytest.raises(StoreUnavailableError, match="lock timeout"),
            transaction(impatient.engine) as other,
        ):
            other.execute(update(schema.adapters).values(reason="late"))
    impatient.control.pauses()


def test_too_many_connections_make_the_store_unavailable(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.store.engine.POOL_SIZE", 1)
    monkeypatch.setattr("daemon.store.engine.POOL_TIMEOUT_S", 0.05)
    small = open_store(url_of(sqlite_store))
    with reading(small.engine), reading(small.engine), pytest.raises(StoreUnavailableError, match="became free"):
        small.control.pauses()
    small.close()


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_times_do_not_depend_on_the_sessions_time_zone(
    postgres_server: PostgresServer, open_stores: Callable[[str], Store], zone: str
) -> None:
    url = postgres_server.url(postgres_server.create_database())
    far = open_stores(f"{url}?options=-c%20timezone%3D{zone}")
    add(far, flagged(id="one"))
    received = open_stores(url).reports.get("one").received_at
    assert received == far.reports.get("one").received_at
    assert received.tzinfo is UTC
    assert abs(received - utcnow()) < timedelta(minutes=1)
    [claim] = far.reports.claim(owner="w", limit=1, lease_s=60)
    assert open_stores(url).reports.claim(owner="v", limit=1, lease_s=60) == []
    far.reports.retry(claim, at=utcnow().astimezone(timezone(timedelta(hours=9))), reason="later")
    assert len(far.reports.claim(owner="w", limit=1, lease_s=60)) == 1


def test_a_time_without_a_time_zone_is_refused(store: Store) -> None:
    add(store, flagged())
    [claim] = store.reports.claim(owner="w", limit=1, lease_s=60)
    with pytest.raises(StatementError, match="no time zone"):
        store.reports.retry(claim, at=datetime(2026, 1, 31), reason="naive")  # noqa: DTZ001


def test_leases_go_by_the_databases_clock(store: Store) -> None:
    with reading(store.engine) as connection:
        assert abs(database_time(connection) - utcnow()) < timedelta(minutes=1)
