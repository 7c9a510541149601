"""Decorators that give a command its target: the backend of its server or store, or the configuration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from daemon.cli.backend import Backend, Document
from daemon.cli.contexts import chosen, names
from daemon.cli.options import DEFAULT_CONFIG, ConfigPath, Overrides, settings
from daemon.cli.server import Server
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.config import Config

COMPLETION_TIMEOUT_S = 1.0

ServerUrl = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Talk to the daemon at this address (ERRATAD_SERVER).")
]
ContextName = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Talk to the server of a context.", autocompletion=names),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", help="The file with the server's token (ERRATAD_TOKEN_FILE).")
]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="The authority of the server's certificate (ERRATAD_CA_FILE).")
]
_OPTIONS: dict[str, Any] = {
    "config_path": ConfigPath,
    "overrides": Overrides,
    "server": ServerUrl,
    "context": ContextName,
    "token_file": TokenFile,
    "ca_file": CaFile,
}


class Target:
    """The daemon that a command is for, by its options, those of `erratad` itself, and the environment."""

    def __init__(self, ctx: typer.Context) -> None:
        """Raises ConfigError for options that contradict each other."""
        self._command = ctx.info_name
        self._given = {name: _given(ctx, name) for name in _OPTIONS}
        self.server: Server | None = chosen(self._given, local=_is_local(ctx))

    def config(self) -> Config:
        """The configuration of this machine.

        Raises:
            ConfigError: it is missing or invalid, or a server is chosen.
        """
        if self.server is not None:
            raise ConfigError(
                f"`erratad {self._command}` works with the configuration and the files of its own machine, not over "
                f"the API of {self.server.url}; run it where the daemon runs, or give --config for a configuration of "
                "this machine"
            )
        return settings(self._given["config_path"], self._given["overrides"])

    @contextmanager
    def backend(self, *, timeout_s: float | None = None) -> Iterator[Backend]:
        """The server, or else the local store, which is opened at its first use.

        Args:
            timeout_s: How long the server may take for an answer; None: as long as usual.
        """
        if self.server is None:
            config = self.config()  # a wrong one is told before the slow import
            from daemon.cli.local import LocalBackend

            with ExitStack() as still_open:
                yield LocalBackend(config, still_open)
        else:
            from daemon.cli.remote import TIMEOUT_S, RemoteBackend

            yield RemoteBackend(self.server, timeout_s=timeout_s or TIMEOUT_S)

    @contextmanager
    def status(self) -> Iterator[Callable[[], Document]]:
        """Tells the status at each call: of the server, or else of the daemon that runs here, or of the local store."""
        ask = None
        if self.server is not None:
            self.server.warn_if_readable()
        elif not self._given["overrides"]:
            from daemon.cli.running import running

            ask = running(self._given["config_path"] or DEFAULT_CONFIG)
        with ExitStack() as still_open:
            backend: Backend | None = None

            def look() -> Document:
                nonlocal backend
                if ask is not None and (told := ask()) is not None:
                    return told
                backend = backend or still_open.enter_context(self.backend())
                return backend.status()

            yield look


def for_target(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is the `Target` of its options."""

    @functools.wraps(command)
    def run(ctx: typer.Context, **given: Any) -> None:
        for name in _OPTIONS:
            del given[name]
        command(Target(ctx), **given)

    return _with_options(run, command)


def on_backend(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is the backend of its target."""

    @functools.wraps(command)
    def run(target: Target, **given: Any) -> None:
        if target.server is not None:
            target.server.warn_if_readable()
        with target.backend() as backend:
            command(backend, **given)

    return for_target(run)


def on_this_machine(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is the configuration of this machine. It refuses a server."""

    @functools.wraps(command)
    def run(target: Target, **given: Any) -> None:
        command(target.config(), **given)

    return for_target(run)


def root(
    *,
    server: ServerUrl = None,
    context: ContextName = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """The options of a server before the name of a command; `Target` reads them there."""


def _with_options(run: Callable[..., None], command: Callable[..., None]) -> Callable[..., None]:
    """Give `run` the parameters of `command` without its first one, and the options."""
    first, *others = inspect.signature(command).parameters.values()
    # the first one's type need not be imported: typer does not see it
    hints = get_type_hints(command, localns={str(first.annotation): Any}, include_extras=True)
    kept = [one.replace(annotation=hints[one.name]) for one in others]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    signature = inspect.Signature([ctx, *kept, *more])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return run


def _given(ctx: typer.Context, name: str) -> Any:
    """The option as given to the command, or else before its name."""
    found: Any = ctx
    while found is not None:
        if found.params.get(name) is not None:
            return found.params[name]
        found = found.parent
    return None


def _is_local(ctx: typer.Context) -> bool:
    """Whether an option, not the environment, names a configuration of this machine."""
    sources = (ctx.get_parameter_source(name) for name in ("config_path", "overrides"))
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)
