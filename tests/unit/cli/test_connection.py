"""The target of a command: a server by options, or the configuration of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from daemon.cli import app
from daemon.records import ReportState
from daemon.store import Store
from tests.fixtures.api import serving
from tests.fixtures.config import flagged
from tests.fixtures.stores import add


@pytest.fixture
def url(sqlite_store: Store, config_file: Path) -> Iterator[str]:
    with serving(sqlite_store, config_file) as address:
        yield address


def erratad(*arguments: str, **environment: str) -> Result:
    return CliRunner(env={"ERRATAD_CONFIG": None, "ERRATAD_SERVER": None, **environment}).invoke(app, list(arguments))


def test_a_server_is_named_before_or_after_the_command(url: str, sqlite_store: Store) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-1")
    for arguments in (("--server", url, "status"), ("status", "--server", url)):
        done = erratad(*arguments)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "machine-1" in done.stdout


def test_the_server_of_a_command_wins_over_the_one_before_it(url: str) -> None:
    assert erratad("--server", "http://127.0.0.1:9", "reports", "--server", url).exit_code == 0


def test_a_server_and_a_configuration_contradict_each_other(url: str, config_file: Path) -> None:
    refused = erratad("status", "--server", url, "--config", str(config_file))
    assert refused.exit_code == 2
    assert "not both" in refused.stderr
    assert erratad("reports", "--server", url, ERRATAD_CONFIG=str(config_file)).exit_code == 0


@pytest.mark.parametrize("command", [("run",), ("check-config",), ("vllm", "--print"), ("import", __file__)])
def test_a_command_for_its_own_machine_refuses_a_server(command: tuple[str, ...]) -> None:
    refused = erratad("--server", "http://127.0.0.1:9", *command)
    assert refused.exit_code == 2
    assert f"`erratad {command[0]}` works with the configuration and the files of its own machine" in refused.stderr
    assert erratad(*command, ERRATAD_SERVER="http://127.0.0.1:9").exit_code == 2


def test_reports_are_submitted_to_a_server(url: str, sqlite_store: Store, tmp_path: Path) -> None:
    file = tmp_path / "reports.jsonl"
    file.write_text(flagged(id="over-the-api").model_dump_json(exclude_none=True) + "\n")
    done = erratad("submit", str(file), "--json", "--server", url)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["sent"] == 1
    assert sqlite_store.reports.get("over-the-api").state is ReportState.QUEUED
    refused = erratad("submit", str(file), "--via", "kafka", "--server", url)
    assert refused.exit_code == 2
    assert "need --config" in refused.stderr


def test_a_token_that_is_sent_without_encryption_is_warned_of(tmp_path: Path, url: str, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="known"))
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    given = ("--token-file", str(token))
    assert erratad("reports", "--server", url, *given).stderr == ""
    told = erratad("reports", "--server", "http://erratad.invalid:1", *given)
    assert told.exit_code == 3
    assert "the token is sent to erratad.invalid without encryption" in told.stderr
    assert "secret" not in told.stderr
