"""Options that commands share, added to them by decorators, and the way from options to a configuration and a store."""

from __future__ import annotations

import functools
import getpass
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

from daemon.cli.output import say, warn
from daemon.errors import ConfigError, IllegalTransitionError, NotFoundError, StoreUnavailableError

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.store import Store

State = TypeVar("State", bound=StrEnum)
Own = ParamSpec("Own")

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


def configured(command: Callable[Concatenate[Config, Own], None], *, skip: int = 1) -> Callable[..., None]:
    """A command with `--config` and `--set`; it gets the configuration that they name as its first argument."""

    def run(*, config: Path | None, overrides: list[str] | None, **own: Any) -> None:
        command(settings(config, overrides), **own)  # type: ignore[call-arg]  # Typer passes every argument by name

    return with_options(run, command, skip=skip, config=(ConfigPath, None), overrides=(Overrides, None))


def with_options(
    run: Callable[..., None], command: Callable[..., Any], *, skip: int = 1, **options: tuple[Any, object]
) -> Callable[..., None]:
    """`run` under the name of `command`, with its arguments but the first, and with `options`: name -> (type, default).

    `skip` 0: an outer layer has taken the first argument away already.

    Typer reads a command's signature and the type hints of its module; here both are put together.
    """
    own = list(inspect.signature(command).parameters.values())[skip:]
    # the skipped argument's type is not imported at run time, so the others are looked up without it
    written = SimpleNamespace(__annotations__={one.name: one.annotation for one in own})
    hints = get_type_hints(written, vars(sys.modules[command.__module__]), include_extras=True)
    hints |= {name: annotation for name, (annotation, _) in options.items()}
    defaults = {one.name: one.default for one in own} | {name: default for name, (_, default) in options.items()}
    functools.update_wrapper(run, command)
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
            for name, annotation in hints.items()
        ]
    )
    run.__annotations__ = hints
    return run


def one_of(states: type[State], text: str | None) -> State | None:
    """The state that `--state` names."""
    if text is None:
        return None
    try:
        return states(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r} is no state; choose one of {', '.join(states)}") from exc


def settings(path: Path | None, overrides: list[str] | None) -> Config:
    """Raises ConfigError."""
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
