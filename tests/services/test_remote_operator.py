"""An operator on another machine, which is a second network namespace, with a token alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from daemon.records import AdapterState, IntentKind, IntentState, ReportState
from daemon.store import Store
from tests.fixtures import namespaces
from tests.fixtures.api import serving
from tests.fixtures.config import flagged
from tests.fixtures.learned import Learned
from tests.fixtures.stores import add, url_of

ROOT = Path(__file__).parents[2]
HERE, THERE = "10.213.77.1", "10.213.77.2"
TOKENS = ("reviewer", "operator", "admin")
DID = {"reviewer": "accept", "operator": "rollback", "admin": "approved"}


@pytest.fixture
def elsewhere() -> Iterator[list[str]]:
    """A second network, joined to this one by a cable (veth); yields the start of a command that runs in it.

    No installation can give a machine the right to it, so without it the test is skipped everywhere.
    """
    with _network(f"erratad-{os.getpid()}") as start:
        yield start


@contextmanager
def _network(name: str) -> Iterator[list[str]]:
    try:
        namespaces.add(name)
    except namespaces.NoNamespaces as exc:
        pytest.skip(str(exc))
    link = f"er{os.getpid()}"
    try:
        for command in (
            f"link add {link} type veth peer name cable netns {name}",
            f"address add {HERE}/30 dev {link}",
            f"link set {link} up",
            f"-n {name} address add {THERE}/30 dev cable",
            f"-n {name} link set cable up",
            f"-n {name} link set lo up",
        ):
            namespaces.ip(command)
        yield namespaces.within(name)
    finally:
        namespaces.ip(f"netns delete {name}")  # takes the cable with it


@pytest.fixture
def config_file(tmp_path: Path, sqlite_store: Store) -> Path:
    folder = tmp_path / "server"
    folder.mkdir()
    for role in TOKENS:
        token = folder / role
        token.write_text(f"the-token-of-an-{role}\n")
        token.chmod(0o600)
    tokens = [{"name": f"an-{role}", "role": role, "token_file": str(folder / role)} for role in TOKENS]
    path = folder / "erratad.yaml"
    values = {
        "data_dir": str(folder / "var"),
        "model": {"path": str(folder)},
        "store": {"url": url_of(sqlite_store)},
        "http": {"host": HERE, "tokens": tokens},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@contextmanager
def _promoting(store: Store) -> Iterator[None]:
    """Carries out rollbacks, without a model server."""
    stop = threading.Event()

    def answer() -> None:
        while not stop.wait(0.2):
            store.control.heartbeat({"promotion": "idle"}, owner="machine-1")
            if (intent := store.intents.pending(IntentKind.ROLLBACK)) is not None:
                live, target = store.adapters.live().generation, intent.target_generation or 0
                store.adapters.roll_back(target, expected_live=live, actor=intent.actor, reason=intent.reason)
                store.intents.finish(intent.id, IntentState.DONE, f"generation {target} is live")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_status_review_approve_and_rollback_with_a_token_alone(
    elsewhere: list[str], learned: Learned, config_file: Path, tmp_path: Path
) -> None:
    store = learned.store
    add(store, flagged(id="flood-1", reporter="kiosk"), flagged(id="flood-2", reporter="kiosk"), reporter_cap=1)
    home = tmp_path / "operator"
    home.mkdir()
    for role in TOKENS:
        shutil.copy2(config_file.parent / role, home / role)
    alone = ["env", "-i", "-C", str(home), f"HOME={home}", "LOGNAME=ann", "PATH=/usr/bin:/bin", f"PYTHONPATH={ROOT}"]

    def erratad(*arguments: str, exits: int = 0) -> str:
        command = [*elsewhere, *alone, sys.executable, "-m", "daemon", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == exits, f"{arguments}: {done.stdout}{done.stderr}"
        assert "the-token-of" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    with serving(store, config_file) as url, _promoting(store):
        port = url.rpartition(":")[2]
        assert "does not answer" in erratad("--server", f"http://127.0.0.1:{port}", "status", exits=3)
        for role in TOKENS:
            erratad("context", "set", role, "--server", url, "--token-file", role)
        erratad("context", "use", "admin")
        assert "Live: aligned-g000001" in erratad("status")
        assert "flood-2" in erratad("review", "list")
        assert "accepted flood-2" in erratad("review", "accept", "flood-2", "--context", "reviewer")
        refused = erratad("rollback", "-m", "worse", "--yes", "--context", "reviewer", exits=1)
        assert "this needs role operator" in refused
        worse = ("rollback", "-m", "worse", "--yes")
        assert "rollback: done, generation 0 is live" in erratad(*worse, "--context", "operator")
        assert store.adapters.get(1).state is AdapterState.ROLLED_BACK
        forged = ("approve", "1", "-m", "the flags were forged", "--yes")
        assert "this needs role admin" in erratad(*forged, "--context", "operator", exits=1)
        assert "rollback generation 1: done, generation 1 is live" in erratad(*forged)
        assert "Live: aligned-g000001" in erratad("status")
    assert store.reports.get("flood-2").state is ReportState.QUEUED
    told = {(entry.actor, entry.action) for entry in store.audit.entries()}
    assert {(f"an-{role} for ann", action) for role, action in DID.items()} <= told
