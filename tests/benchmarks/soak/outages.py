"""What goes wrong during a soak: each function breaks one part in the middle of a run and puts it right again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import cycle

import psutil

from daemon.records import RunState
from tests.benchmarks.soak.people import Chats
from tests.benchmarks.soak.stand import Stand

AWAY_S = 3.0
POLL_S = 0.05
TRAINER = "daemon.training.trainer"
EVERY = 5
"""Runs from one outage to the next."""

Outage = Callable[[Stand, Chats], None]
_killed_in = cycle((RunState.PREPARING, RunState.TRAINING, RunState.EVALUATING))


def broker(stand: Stand, _chats: Chats) -> None:
    _until_in(stand, RunState.PREPARING)  # so that all that the broker holds is stored
    stand.broker.kill()
    time.sleep(AWAY_S)
    stand.restart_broker()


def model_server(stand: Stand, chats: Chats) -> None:
    _until_in(stand, RunState.EVALUATING)
    chats.server_away.set()
    stand.fake.kill()
    time.sleep(AWAY_S)
    stand.fake.start()
    stand.ready()
    chats.server_away.clear()


def database(stand: Stand, _chats: Chats) -> None:
    """PostgreSQL crashes; of SQLite another process holds the lock."""
    _until_in(stand, RunState.TRAINING)
    if stand.postgres is not None:
        stand.postgres.stop("immediate")
        time.sleep(AWAY_S)
        stand.postgres.start()
        return
    with closing(sqlite3.connect(stand.data_dir / "erratad.sqlite3", isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 10000")
        other.execute("BEGIN IMMEDIATE")
        time.sleep(AWAY_S)
        other.execute("ROLLBACK")


def trainer(stand: Stand, _chats: Chats) -> None:
    _until_in(stand, RunState.TRAINING)
    stand.daemon.until(lambda: _kill_trainer(stand), poll_s=POLL_S)


def daemon(stand: Stand, _chats: Chats) -> None:
    _until_in(stand, next(_killed_in))
    stand.daemon.kill()
    stand.daemon.start()
    stand.ready()


def plan(runs: int) -> dict[int, Outage]:
    """The outage in each run that has one. In the second half the daemon is not killed, so its memory is one line."""
    first = cycle((daemon, broker, model_server, trainer, database))
    second = cycle((trainer, database, model_server, broker))
    every = min(EVERY, max(1, runs // 5))
    return {number: next(first if number < runs // 2 else second) for number in range(every - 1, runs, every)}


def _until_in(stand: Stand, state: RunState) -> None:
    """Wait for a run in this state, or a later one if it was missed."""
    reached = [*RunState][[*RunState].index(state) :]
    stand.daemon.until(lambda: (run := stand.store.runs.active()) is not None and run.state in reached, poll_s=POLL_S)


def _kill_trainer(stand: Stand) -> bool:
    for child in psutil.Process(stand.daemon.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if TRAINER in child.cmdline():
                child.kill()
                return True
    run = stand.store.runs.active()
    return run is None or run.state != RunState.TRAINING
