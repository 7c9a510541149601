"""The status of the daemon that runs with a configuration on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.running import running
from daemon.config import load_config
from daemon.runtime.address import Address, announce
from daemon.store import Store
from tests.fixtures.api import serving
from tests.fixtures.ports import free_port


@pytest.fixture
def data_dir(config_file: Path) -> Path:
    found = load_config(config_file).data_dir
    found.mkdir(exist_ok=True)
    return found


def test_the_daemon_of_the_data_directory_is_asked(sqlite_store: Store, config_file: Path, data_dir: Path) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-1")
    with serving(sqlite_store, config_file) as url:
        announce(data_dir, Address(url=url, owner="machine-1"))
        ask = running(config_file)
        status = None if ask is None else ask()
    assert status is not None
    assert [stage["owner"] for stage in status["stages"]] == ["machine-1"]


def test_another_daemon_at_the_address_is_not_believed(sqlite_store: Store, config_file: Path, data_dir: Path) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-2")
    with serving(sqlite_store, config_file) as url:
        announce(data_dir, Address(url=url, owner="machine-1"))
        ask = running(config_file)
        assert ask is not None
        assert ask() is None


def test_a_daemon_that_has_ended_gives_no_status(config_file: Path, data_dir: Path) -> None:
    announce(data_dir, Address(url=f"http://127.0.0.1:{free_port()}", owner="machine-1"))
    ask = running(config_file)
    assert ask is not None
    assert ask() is None


@pytest.mark.parametrize(
    "text",
    ["{data_dir: DIR}", "model: {path: x}", "data_dir: &a DIR", "data_dir: DIR\ndata_dir: DIR", "data_dir: 'DIR'"],
)
def test_a_data_directory_that_is_not_plain_to_see_is_left_to_the_configuration(
    data_dir: Path, tmp_path: Path, text: str
) -> None:
    announce(data_dir, Address(url="http://127.0.0.1:1", owner="machine-1"))
    config = tmp_path / "plain.yaml"
    config.write_text(f"data_dir: {data_dir}  # here\n")
    assert running(config) is not None
    config.write_text(text.replace("DIR", str(data_dir)))
    assert running(config) is None
