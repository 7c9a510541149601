"""`top`, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import signal
import subprocess

from daemon.cli.top import progress_share
from daemon.operations.views import RunRow
from daemon.store import Store
from tests.fixtures.cli import ROOT, command_line, piped
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, start_run


def test_top_once_shows_the_whole_loop_without_colours_in_a_pipe(learned: Learned) -> None:
    store = learned.store
    add(store, flagged(id="a"), flagged(id="b"))
    store.control.heartbeat({"ingest": "waits\x1b[2J for messages"}, owner="machine-1")
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
    assert progress_share(RunRow.of(learned.store.runs.get(run.id)).model_dump()) == 0.25
    learned.store.runs.progress(run.id, {"evaluation": {"done": 3, "total": 4}})
    assert progress_share(RunRow.of(learned.store.runs.get(run.id)).model_dump()) == 0.75


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
