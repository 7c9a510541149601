"""Options that commands share, and the way from them to a configuration and a store."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from daemon.cli.output import say, warn
from daemon.errors import ConfigError, IllegalTransitionError, NotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.store import Store

State = TypeVar("State", bound=StrEnum)

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
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many, newest first.")]
StateName = Annotated[str | None, typer.Option("--state", metavar="STATE", help="Only those in this state.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why; kept in the audit log.")]


def one_of(states: type[State], text: str | None) -> State | None:
    """The state that `--state` names."""
    if text is None:
        return None
    try:
        return states(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no state; choose one of {', '.join(states)}") from exc


def settings(path: Path | None, overrides: list[str] | None) -> Config:
    """The configuration that `--config` and `--set` name.

    Raises:
        ConfigError: where there is none, or it is wrong.
    """
    from daemon.config import load_config

    if path is None and not DEFAULT_CONFIG.exists():
        raise ConfigError(
            f"there is no {DEFAULT_CONFIG} here; name a configuration with --config or the variable ERRATAD_CONFIG"
        )
    return load_config(path or DEFAULT_CONFIG, overrides)


@contextmanager
def opened(config: Config, *, create: bool = False) -> Iterator[Store]:
    """The store; `create`: an SQLite file that does not exist yet is made, else it is an error.

    Raises:
        ConfigError: when `store.url` is none.
        StoreUnavailableError: when there is no database, or it does not answer.
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
    """Looking must not make an empty database; a URL that is none is `open_store`'s to explain."""
    from sqlalchemy.engine import make_url

    from daemon.operations.preflight import store_url_problem

    if store_url_problem(config.store_url) is not None:
        return
    url = make_url(config.store_url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise StoreUnavailableError(
            f"there is no database at {url.database}; `erratad run` makes it, or --config names another configuration"
        )


def operator() -> str:
    """The OS user, for the audit log; behind sudo the person, not the account that everyone shares."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):  # Python 3.12 raises the former where 3.11 raises the latter: a user id without a name
        return "unknown"


def for_each(report_ids: list[str], act: Callable[[str], object], done: str) -> None:
    """Every id gets its try; one that fails does not keep the others from theirs."""
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
