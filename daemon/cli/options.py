"""Options shared by the commands, and loading of the configuration and the store."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from daemon.cli.output import printable, say, warn
from daemon.errors import ConfigError, IllegalTransitionError, NotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.store import Store

Member = TypeVar("Member", bound=StrEnum)

DEFAULT_CONFIG = Path("configs/default.yaml")

ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="ERRATAD_CONFIG", help="The YAML file; default: configs/default.yaml."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. --set http.port=9000; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
MAX_NUMBER = 2**31 - 1
"""The greatest number of a run or generation, as in `daemon.records`, whose import would slow every start."""
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many, newest first.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept in the audit log.")]
ReasonNeeded = Annotated[
    str | None, typer.Option("--reason", "-m", help="Why; kept in the audit log. Asked for if it is left out.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def one_of(members: type[Member], text: str | None, name: str = "state") -> Member | None:
    """The member that an option names. Raises BadParameter for an unknown one."""
    if text is None:
        return None
    try:
        return members(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is not a {name}; choose one of {', '.join(members)}") from exc


def settings(path: Path | None, overrides: list[str] | None) -> Config:
    """The configuration given by `--config` and `--set`.

    Raises:
        ConfigError: if it is missing or invalid.
    """
    from daemon.config import load_config

    if path is None and not DEFAULT_CONFIG.exists():
        raise ConfigError(
            f"{DEFAULT_CONFIG} is missing; give a configuration with --config or the variable ERRATAD_CONFIG, "
            "or write one with `erratad init`"
        )
    return load_config(path or DEFAULT_CONFIG, overrides)


@contextmanager
def opened(config: Config, *, create: bool = False) -> Iterator[Store]:
    """Open the store. With `create`, a missing SQLite file is created; otherwise it is an error.

    Raises:
        ConfigError: if `store.url` is invalid.
        StoreUnavailableError: if the database is missing or does not answer.
    """
    from daemon.store import open_store

    if not create:
        _database_file_exists(config)
    store = open_store(config)
    try:
        yield store
    finally:
        store.close()


def _database_file_exists(config: Config) -> None:
    """Read-only commands must not create the database. `open_store` reports invalid URLs."""
    from daemon.config.database_url import sqlite_file

    file = sqlite_file(config.store_url)
    if file is not None and not file.exists():
        raise StoreUnavailableError(
            f"there is no database at {file}; start `erratad run`, or choose another --config or --server"
        )


def operator() -> str:
    """The OS user for the audit log. With sudo it is the calling user, not the shared account."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):  # a user id without a name: KeyError in Python 3.11, OSError in 3.12
        return "unknown"


def ask(question: Callable[[], str], *, yes: bool) -> None:
    """Ask on a terminal before an action that cannot be undone, or that users notice at once.

    Raises:
        ConfigError: there is no terminal to ask on, and no `--yes`.
        Abort: the answer is no.
    """
    if yes:
        return
    if not _on_terminal():
        raise ConfigError("nothing was done: this command asks first, and there is no terminal; confirm it with --yes")
    typer.confirm(printable(question()), abort=True, err=True)


def reason_given(reason: str | None) -> str:
    """The reason, asked for on a terminal if it is missing. Raises ConfigError if there is no terminal."""
    if reason is None and _on_terminal():
        reason = typer.prompt("Reason (for the audit log)", err=True)
    if reason is None or not reason.strip():
        raise ConfigError("nothing was done: give the reason with --reason; it is kept in the audit log")
    return reason


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def for_each(report_ids: list[str], act: Callable[[str], object], done: str) -> None:
    """Apply `act` to every id. Warn of failed ids, continue with the others, and exit with 1 if any failed."""
    failed = False
    for report_id in report_ids:
        try:
            act(report_id)
            say(f"{done} {report_id}")
        except (NotFoundError, IllegalTransitionError) as exc:
            warn(str(exc))
            failed = True
    if failed:
        raise typer.Exit(1)
