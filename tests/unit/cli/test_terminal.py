"""Output on a terminal and in a pipe: colours, progress bars, `top`, shell completion."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.cli.app import EXIT_CODES, app
from daemon.cli.output import style_of
from daemon.cli.top import progress_share
from daemon.operations.status import progress_text
from daemon.operations.views import RunRow
from daemon.records import AdapterState
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, start_run, url_of

ROOT = Path(__file__).parents[3]
LISTINGS = ("status", "reports", "lessons", "runs", "adapters")


def command_line(store: Store, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The `erratad` command for the store, and an environment without colour variables."""
    settings = ("--config", "configs/default.yaml", "--set", f"store.url={url_of(store)}")
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "ERRATAD_CONFIG"}}
    environment = {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "150"}
    return [sys.executable, "-m", "daemon", *arguments, *settings], environment


def on_a_terminal(store: Store, *arguments: str, **variables: str) -> str:
    """The output of the command on a pseudo-terminal."""
    command, environment = command_line(store, *arguments)
    master, slave = pty.openpty()
    process = subprocess.Popen(command, env={**environment, **variables}, cwd=ROOT, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        written += chunk
    process.wait(60)
    os.close(master)
    return written.decode()


def piped(store: Store, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, environment = command_line(store, *arguments)
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])[0-9;]*m")


def test_states_are_coloured_on_a_terminal_only_and_not_with_no_color(learned: Learned) -> None:
    assert COLOUR.search(on_a_terminal(learned.store, "adapters"))
    assert not COLOUR.search(on_a_terminal(learned.store, "adapters", NO_COLOR="1"))
    assert "\x1b" not in piped(learned.store, "adapters").stdout


def test_a_colour_never_stands_for_a_word() -> None:
    assert style_of(AdapterState.LIVE)
    assert style_of("live") == "", "only states are coloured, not texts of a report"


def test_every_listing_has_json() -> None:
    told = {command.callback.__name__: command for command in app.registered_commands if command.callback}
    for name in LISTINGS:
        assert "as_json" in told[name].callback.__annotations__, name  # type: ignore[union-attr]


def test_top_once_shows_the_whole_loop_without_colours_in_a_pipe(learned: Learned) -> None:
    store = learned.store
    add(store, flagged(id="a"), flagged(id="b"))
    store.control.heartbeat("ingest", owner="machine-1", sentence="waits\x1b[2J for messages")
    done = piped(store, "top", "--once")
    assert done.returncode == 0, done.stderr
    for said in (
        "queued      2  ██",
        "Live: aligned-g000001",
        "No run is active",
        "Last verdict: accepted",
        "a reason",
    ):
        assert said in done.stdout, done.stdout
    assert "ingest" in done.stdout
    assert "\x1b" not in done.stdout


def test_top_without_a_daemon_exits_with_3(sqlite_store: Store) -> None:
    done = piped(sqlite_store, "top", "--once")
    assert done.returncode == 3
    assert "No daemon seems to run" in done.stdout


def test_top_shows_how_far_the_active_run_is(learned: Learned) -> None:
    run = start_run(learned.store)
    assert run is not None
    learned.store.runs.progress(run.id, {"step": 10, "steps": 40})
    shown = piped(learned.store, "top", "--once").stdout
    assert f"Run {run.id} for generation 2: preparing" in shown
    assert progress_share(RunRow.of(learned.store.runs.get(run.id))) == 0.25
    learned.store.runs.progress(run.id, {"evaluation": {"done": 3, "total": 4}})
    assert progress_share(RunRow.of(learned.store.runs.get(run.id))) == 0.75


def test_the_progress_of_a_run_is_told_in_words(learned: Learned) -> None:
    run = start_run(learned.store)
    assert run is not None

    def told(**figures: object) -> str:
        learned.store.runs.progress(run.id, figures)
        return progress_text(RunRow.of(learned.store.runs.get(run.id)))

    assert told(train_seconds=3.5, losses=[[1, 2.0]]) == ""
    assert told(examples={"analysis": 8, "replay": 2}, left_out={"near_duplicate": 1}) == (
        "examples: 8 analysis, 2 replay; left out: 1 near-duplicate of another report"
    )
    assert "; left out: 3 above max_reports;" in f"{told(left_out={'above max_reports': 3})};"  # of an earlier version
    assert told(step=10, steps=40, loss=0.83125, tokens_per_s=61.7, eta_s=130.0).endswith(
        "; training: step 10 of 40, loss 0.831, 62 tokens/s, 2 min left"
    )
    assert told(eta_s=0.0, skipped_examples=2, failed_attempts=1).endswith(
        "62 tokens/s; 2 examples too long; failed attempts: 1"
    )
    assert told(evaluation={"done": 3, "total": 4, "seconds": 9.0}).endswith("; measured: 3 of 4 answers")


def test_top_redraws_until_ctrl_c_and_leaves_the_daemon_alone(sqlite_store: Store) -> None:
    command, environment = command_line(sqlite_store, "top", "--interval", "0.3")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *command],  # a shell's background job ignores it
        env=environment,
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    while seen.count(b"No daemon seems to run") < 3:
        seen += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    rest = b""
    try:
        while chunk := os.read(master, 65536):
            rest += chunk
    except OSError:
        pass
    assert process.wait(30) == 0
    os.close(master)
    assert b"the daemon is not affected" in rest


def test_long_work_shows_a_bar_on_a_terminal_and_nothing_in_a_pipe(sqlite_store: Store, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    one = {"prompt": "How?", "response": "Like this.", "is_safe": False}
    rows.write_text("".join(json.dumps({**one, "prompt": f"How {n}?"}) + "\n" for n in range(1200)))
    assert "importing rows" in on_a_terminal(sqlite_store, "import", str(rows))
    assert piped(sqlite_store, "import", str(rows)).stderr == ""


@pytest.mark.parametrize(("typed", "meant"), [("erratad ro", "rollback"), ("erratad review rej", "reject")])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str, typed: str, meant: str) -> None:
    environment: dict[str, Any] = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_ERRATAD_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [sys.executable, "-m", "daemon"], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert meant in done.stdout, done.stderr
    assert "resume" not in done.stdout


def test_the_page_for_operators_tells_every_exit_code() -> None:
    page = (ROOT / "docs" / "operate.md").read_text()
    for line in EXIT_CODES.splitlines():
        if found := re.match(r"  (\d)  (.*)", line):
            assert f"| {found[1]} | {found[2]}" in page
