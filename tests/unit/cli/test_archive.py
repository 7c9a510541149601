"""`erratad archive`: run, list, find, restore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.config import load_config
from daemon.operations.archiving import Archiver
from daemon.records import ReportState
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.closed import given_up
from tests.unit.cli.test_completion import completed

ON = ("--set", "storage.archive.after_days=60")


def test_reports_move_into_files_and_come_back(erratad: Command, sqlite_store: Store) -> None:
    one = given_up(sqlite_store)
    assert erratad("archive", "run", "--dry-run", *ON).stdout == "would archive 1 reports in 1 files\n"
    assert erratad("archive", "list").stdout == "no report is archived\n"
    assert erratad("archive", "run", *ON).stdout == "archived 1 reports in 1 files\n"
    [file] = json.loads(erratad("archive", "list", "--json").stdout)
    assert (file["reports"], file["missing"]) == (1, False)
    assert json.loads(erratad("archive", "find", "CAPITAL OF", "--json").stdout) == [{"id": one, "file": file["file"]}]
    assert erratad("archive", "find", "nothing").stdout == "no archived report has this text\n"
    assert completed(erratad, "erratad archive restore --month ") == {file["month"]}
    assert completed(erratad, "erratad archive restore 2") == {file["file"]}
    assert "; 1 more are archived." in erratad("status").stdout
    told = erratad("reports", one)
    assert (told.exit_code, f"archive restore --report {one}" in told.stderr) == (1, True)
    assert erratad("archive", "restore", file["file"], "--reason", "asked").stdout == "restored 1 reports\n"
    assert sqlite_store.reports.get(one).id == one
    assert [entry.action for entry in sqlite_store.audit.entries()][:2] == ["restore", "archive"]


@pytest.mark.parametrize("erratad", ["remote"], indirect=True)
def test_an_archived_report_is_erased_over_the_api(erratad: Command, sqlite_store: Store, config_file: Path) -> None:
    one = given_up(sqlite_store)
    Archiver(sqlite_store, load_config(config_file, [ON[1]])).move(None)
    assert sqlite_store.archive.holds(one)
    assert erratad("erase", one, "--reason", "ticket 1", "--yes").exit_code == 0
    assert sqlite_store.reports.get(one).state is ReportState.ERASED
    assert sqlite_store.archive.files() == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("archive", "run"), 1, "set storage.archive.after_days"),
        (("archive", "run", "--set", "storage.archive.after_days=30"), 2, "greater than or equal to 31"),
        (("archive", "restore"), 2, "name one of"),
        (("archive", "restore", "--month", "2026-01"), 1, "no file of 2026-01"),
        (("archive", "restore", "--report", "x"), 1, "no report 'x' is archived"),
        (("archive", "list", "--server", "http://127.0.0.1:9"), 2, "not over the API"),
    ],
)
def test_what_cannot_be_done_is_told(erratad: Command, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = erratad(*arguments)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
