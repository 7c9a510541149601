"""The command line as a process: start-up, help, and the exit codes of failures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from daemon import __version__, records
from daemon.cli import options
from daemon.cli.app import EXIT_CODES, app
from daemon.config import load_config
from daemon.runtime.address import Address, announce
from daemon.store import Store
from tests.fixtures.api import serving

ROOT = Path(__file__).parents[3]
LISTINGS = ("status", "reports", "lessons", "runs", "adapters")
COMMANDS = (
    *("init", "run", "check-config", "status", "reports", "lessons", "runs", "adapters", "submit", "import", "train"),
    *(
        "induce",
        "promote",
        "reject",
        "rollback",
        "pause",
        "resume",
        "requeue",
        "evidence",
        "erase",
        "archive",
        "audit",
        "review",
        "top",
        "vllm",
        "schema",
        "demo",
        "files",
        "version",
    ),
)


def process(*arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Any:
    command = [sys.executable, "-m", "daemon", *arguments]
    root = str(Path(__file__).parents[3])
    inherited = {key: value for key, value in os.environ.items() if key != "ERRATAD_CONFIG"}
    return subprocess.run(
        command,
        env={**inherited, "PYTHONPATH": root, **(environment or {})},
        cwd=cwd or root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_version_starts_fast() -> None:
    seconds = []
    for _ in range(3):
        before = os.times()
        assert process("version").stdout == f"erratad {__version__}\n"
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.8, "CPU seconds; about 0.35 on an idle machine"


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, daemon.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "typer" in loaded
    assert not {"sqlalchemy", "fastapi", "uvicorn", "torch", "kafka", "httpx", "pydantic", "yaml"} & set(loaded)


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["status", "--server", "URL"]])
def test_help_and_a_status_over_the_api_import_nothing_heavy(
    arguments: list[str], sqlite_store: Store, config_file: Path
) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-1")
    code = "import sys; from daemon.cli import app; app(sys.argv[1:], standalone_mode=False)"
    report = "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    with serving(sqlite_store, config_file) as url:
        command = [sys.executable, "-c", f"import sys; {report}; {code}", *arguments]
        done = subprocess.run(
            [url if word == "URL" else word for word in command], capture_output=True, text=True, check=True, cwd=ROOT
        )
    assert "machine-1" in done.stdout or "--help" in arguments
    loaded = set(done.stderr.split())
    packages = {name.partition(".")[0] for name in loaded}
    assert "typer" in packages
    heavy = {"sqlalchemy", "alembic", "sklearn", "scipy", "numpy", "torch", "kafka", "fastapi", "httpx", "apscheduler"}
    assert not heavy & packages
    assert not {"daemon.config", "daemon.store", "daemon.records", "pydantic_settings", "yaml"} & loaded


def test_a_status_of_a_daemon_that_runs_here_imports_neither_configuration_nor_store(
    sqlite_store: Store, config_file: Path
) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-1")
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import daemon.__main__"
    command = [sys.executable, "-c", code, "status", "--config", str(config_file)]
    with serving(sqlite_store, config_file) as url:
        (data_dir := load_config(config_file).data_dir).mkdir()
        announce(data_dir, Address(url=url, owner="machine-1"))
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "machine-1" in done.stdout
    loaded = set(done.stderr.split())
    assert not {"sqlalchemy", "yaml", "httpx", "structlog"} & {name.partition(".")[0] for name in loaded}
    assert not {"daemon.config", "daemon.store", "daemon.operations.status", "daemon.cli.local"} & loaded


def test_a_status_of_the_local_store_imports_the_store_alone(sqlite_store: Store, config_file: Path) -> None:
    sqlite_store.control.heartbeat({"ingest": "waits"}, owner="machine-1")
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import daemon.__main__"
    command = [sys.executable, "-c", code, "status", "--config", str(config_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "machine-1" in done.stdout
    packages = {name.partition(".")[0] for name in done.stderr.split()}
    assert "sqlalchemy" in packages
    heavy = {"alembic", "numpy", "scipy", "sklearn", "kafka", "httpx", "structlog", "fastapi"}
    heavy |= {"torch", "transformers", "vllm", "mlflow", "cryptography", "psycopg"}
    assert sorted(heavy & packages) == []


def test_help_lists_every_command_and_exit_code() -> None:
    told = process("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in told
    assert "3  the daemon or its database cannot be reached" in told


def test_every_command_takes_the_options_of_its_kind() -> None:
    table = get_command(app)
    commands = {**vars(table)["commands"]}
    for group in ("review", "archive", "context"):
        commands |= {f"{group} {name}": one for name, one in vars(commands.pop(group))["commands"].items()}
    options = {name: {option for one in command.params for option in one.opts} for name, command in commands.items()}
    without = {
        "init",
        "schema",
        "demo",
        "files",
        "version",
        *(f"context {name}" for name in ("list", "use", "set", "delete")),
    }
    for kind in ({"--config", "-c", "--set"}, {"--server", "--context", "--token-file", "--ca-file"}):
        assert {name for name, known in options.items() if not kind <= known} == without
    asking = {name for name, known in options.items() if "--yes" in known}
    assert asking == {"promote", "rollback", "approve", "reject", "erase", "pause", "requeue", "import"}
    waiting = {name for name, known in options.items() if "--wait" in known}
    assert waiting == {"train", "induce", "promote", "rollback", "approve"}
    assert all({"--timeout", "--json", "--reason"} <= options[name] for name in waiting)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frobnicate",), 2, "frobnicate"),
        (("reports", "--limit", "0"), 2, "--limit"),
        (("status", "--config", "none.yaml"), 2, "none.yaml"),
        (("erase", "some-report", "--config", "none.yaml"), 2, "none.yaml"),
        (("status", "--set", "log.level=loud", "--config", "configs/default.yaml"), 2, "log.level"),
        (("status", "--config", "configs/default.yaml", "--set", "data_dir=/nonexistent"), 3, "there is no database"),
        (
            ("status", "--config", "configs/default.yaml", "--set", "store.url=postgresql://erratad@127.0.0.1:9/x"),
            3,
            "the database does not answer",
        ),
        (("status", "--config", "configs/default.yaml", "--set", "store.url=nonsense"), 2, "store.url"),
        (("submit", "none.jsonl"), 2, "none.jsonl"),
        (("runs", "9" * 20), 2, "2147483647"),
        (("adapters", "9" * 20), 2, "2147483647"),
        (("promote", "9" * 20, "--yes"), 2, "2147483647"),
    ],
)
def test_failures_are_one_message_on_stderr_and_an_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = process(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_file_that_is_no_database_is_named_as_the_fault(tmp_path: Path) -> None:
    file = tmp_path / "erratad.sqlite3"
    file.write_text("these are words, and no database " * 100)
    done = process("status", "--config", "configs/default.yaml", "--set", f"data_dir={tmp_path}")
    assert done.returncode == 1
    assert "store.url cannot be read: file is not a database; name another one, or restore a backup" in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_end_where_those_of_the_store_end() -> None:
    assert options.MAX_NUMBER == records.MAX_NUMBER


def test_without_any_configuration_the_next_step_is_named(tmp_path: Path) -> None:
    done = process("status", cwd=tmp_path)
    assert done.returncode == 2
    assert "--config" in done.stderr


def test_every_listing_has_json() -> None:
    told = {command.callback.__name__: command for command in app.registered_commands if command.callback}
    for name in LISTINGS:
        assert "as_json" in told[name].callback.__annotations__, name  # type: ignore[union-attr]


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
