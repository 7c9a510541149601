"""The status and the listings, as text and as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from daemon.records import utcnow
from daemon.store import Store
from tests.fixtures.cli import Command
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add
from tests.unit.cli.conftest import BOTH_WAYS

pytestmark = BOTH_WAYS


def test_status_says_that_no_daemon_runs(erratad: Command) -> None:
    done = erratad("status")
    assert done.exit_code == 3
    assert "No daemon seems to run" in done.stdout
    assert "Live: the base model" in done.stdout


def test_status_tells_stages_pauses_queue_and_schedule(erratad: Command, learned: Learned) -> None:
    store = learned.store
    add(store, flagged())
    store.control.heartbeat({"ingest": "waits for messages"}, owner="machine-1")
    store.control.pause("finetune", actor="ann", reason="GPU is needed")
    done = erratad("status")
    assert done.exit_code == 0
    for said in (
        "The daemon runs (machine-1",
        "Paused: finetune, by ann: GPU is needed.",
        "Live: aligned-g000001 since",
        "Reports: 1 queued, 1 lesson; the oldest waits for",
        "Last run: 1 (generation 1), promoted",
        "0 of 50 new lessons",
        "next cron time",
        "waits for messages",
    ):
        assert said in done.stdout, said


def test_a_set_key_is_one_of_the_store_of_this_machine(erratad: Command, config_file: Path) -> None:
    here = ("--config", str(config_file), "--set", "schedule.cron=null")
    assert erratad("status", *here).stdout.count("no cron time is set") == 1


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("reports",), ("lessons",), ("runs",), ("adapters",), ("runs", "1"), ("adapters", "1")],
)
def test_json_is_one_document_and_nothing_else(arguments: tuple[str, ...], erratad: Command, learned: Learned) -> None:
    done = erratad(*arguments, "--json")
    assert json.loads(done.stdout)
    assert done.stderr == ""


def test_piped_tables_have_no_colours_and_wrap_nothing(erratad: Command, sqlite_store: Store) -> None:
    long = "x" * 120
    add(sqlite_store, flagged(id="id-" + long, reason=f"It is {long}."))
    done = erratad("reports", env={"FORCE_COLOR": "", "COLUMNS": "40"})
    assert "\x1b" not in done.stdout
    [header, row] = done.stdout.splitlines()
    assert header.split()[:2] == ["ID", "STATE"]
    assert "id-" + long in row
    assert long in row.rpartition("It is")[2]


def test_control_characters_of_a_report_never_reach_the_terminal(erratad: Command, sqlite_store: Store) -> None:
    hostile = "\x1b[2J\x9b31m[bold]x[/bold]\x07"
    add(sqlite_store, flagged(id="hostile", reason=hostile, response=hostile))
    shown = erratad("reports").stdout + erratad("reports", "hostile").stdout
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)
    assert shown.count("⟨U+001B⟩[2J⟨U+009B⟩31m[bold]x[/bold]⟨U+0007⟩") == 3
    assert json.loads(erratad("reports", "hostile", "--json").stdout)["response"] == hostile


def test_unseen_characters_of_a_report_are_shown_as_codes(erratad: Command, sqlite_store: Store) -> None:
    turned = "pay \u202eeve\u2069\u200b"
    add(sqlite_store, flagged(id="turned", reason=turned, response=turned, correction=turned), reporter_cap=0)
    for command in (("reports",), ("reports", "turned"), ("review", "list"), ("review", "show", "turned")):
        shown = erratad(*command).stdout
        assert "pay ⟨U+202E⟩eve⟨U+2069⟩⟨U+200B⟩" in shown
        assert not {"\u202e", "\u2069", "\u200b"} & set(shown)
    assert json.loads(erratad("reports", "turned", "--json").stdout)["response"] == turned


def test_reports_can_be_filtered(erratad: Command, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", category="format"), flagged(id="b", category="harmful"))
    assert [row["id"] for row in json.loads(erratad("reports", "--category", "harmful", "--json").stdout)] == ["b"]
    assert erratad("reports", "--state", "buried").stdout == "No reports.\n"
    wrong = erratad("reports", "--state", "happy")
    assert wrong.exit_code == 2
    assert "quarantined" in wrong.stderr


def test_watch_shows_the_status_until_it_is_interrupted(
    erratad: Command, sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        if len(rests) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", rest)
    done = erratad("status", "--watch")
    assert done.stdout.count("Live: the base model") == 2
    assert done.exit_code == 130


def test_reports_take_every_filter_and_an_order(erratad: Command, sqlite_store: Store) -> None:
    add(sqlite_store, flagged(id="a", severity="high", tenant="east"), flagged(id="b"), flagged(id="c", severity="low"))
    shown = erratad("reports", "--sort", "severity", "--json")
    assert [row["id"] for row in json.loads(shown.stdout)] == ["a", "b", "c"]
    today = f"{utcnow():%Y-%m-%d}"
    wanted = ("--severity", "high", "--tenant", "east", "--evidence", "unchecked", "--since", today, "--until", today)
    assert [row["id"] for row in json.loads(erratad("reports", *wanted, "--json").stdout)] == ["a"]
    assert "No reports." in erratad("reports", "--until", "2020-01-01").stdout
    wrong = erratad("reports", "--severity", "huge")
    assert wrong.exit_code == 2
    assert "low, medium, high" in " ".join(wrong.stderr.split())
