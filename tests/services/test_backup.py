"""The commands of docs/upgrade.md, as they stand there: what a backup holds is there again after a restore."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add

PAGE = (Path(__file__).parents[2] / "docs" / "upgrade.md").read_text()
DATA, BACKUP, DATABASE = "/var/lib/erratad", "/var/backups/erratad", "postgresql://erratad@127.0.0.1:5432/erratad"
OTHER = {"sqlite": ("pg_dump", "pg_restore"), "postgresql": ("import sqlite3", "cp ")}
"""The commands of the other kind of database."""


def commands(section: str, *, kind: str) -> str:
    """The section's commands for this kind of database."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return "".join(block for block in blocks if not any(word in block for word in OTHER[kind]))


def run(script: str, places: dict[str, str]) -> None:
    for written, here in places.items():
        script = script.replace(written, here)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path) -> None:
    for name in ("adapters/aligned-g000001/adapter_model.safetensors", "runs/g000001/train.jsonl", "privacy.key"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "logs").mkdir()
    (folder / "logs" / "vllm.log").write_text("not kept")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_brings_back_reports_adapters_and_keys(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, open_stores: Callable[[str], Store]
) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    fill(data)
    before = after = f"sqlite:///{data / 'erratad.sqlite3'}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgres_server")
        before, after = server.url(server.create_database()), server.url(server.create_database())
    store = open_stores(before)
    add(store, flagged(id="kept"))

    # the daemon may run: its connection is open, and what it writes afterwards is not in the backup
    setup = PAGE.partition("\n## Backup\n")[2].partition("```sh\n")[2].partition("```")[0]
    run(commands("Backup", kind=kind), {DATA: str(data), BACKUP: str(backup), DATABASE: before})
    add(store, flagged(id="later"))
    store.close()
    shutil.move(data, tmp_path / "lost")

    run(setup + commands("Restore", kind=kind), {DATA: str(data), BACKUP: str(backup), DATABASE: after})
    restored = open_stores(after)
    assert restored.reports.get("kept").state == "queued"
    assert sum(restored.reports.counts().values()) == 1
    found = files_below(data)
    assert {name for name in found if not name.startswith("erratad.sqlite3")} == {
        *("adapters/aligned-g000001/adapter_model.safetensors", "runs/g000001/train.jsonl", "privacy.key")
    }
    assert backup.stat().st_mode & 0o077 == 0


def test_every_command_of_the_page_is_run() -> None:
    written = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert len(written) == 7
    ran = "".join(commands(section, kind=kind) for section in ("Backup", "Restore") for kind in OTHER)
    assert [block for block in written if block not in ran] == []
