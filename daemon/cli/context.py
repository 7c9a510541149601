"""`erratad context`: lists, chooses, sets and deletes the contexts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.contexts import Contexts, names, values_of
from daemon.cli.options import AsJson
from daemon.cli.output import print_json, say, table
from daemon.cli.server import Server
from daemon.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the context.", autocompletion=names)]

context = typer.Typer(
    name="context",
    help="Name the servers that commands talk to. The file is ~/.config/erratad/contexts.yaml, or ERRATAD_CONTEXTS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@context.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the contexts. The current one is marked with *."""
    known = Contexts.read()
    rows = [{"name": name, "current": name == known.current, **values_of(one)} for name, one in known.servers.items()]
    if as_json:
        print_json(rows)
        return
    table(
        ("NAME", "CURRENT", "SERVER", "TOKEN FILE", "CA FILE"),
        [
            (row["name"], "*" if row["current"] else "", row["server"], row.get("token_file"), row.get("ca_file"))
            for row in rows
        ],
        empty="No contexts; `erratad context set NAME --server URL --token-file FILE` makes one.",
    )


@context.command()
def use(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Without a name: none.", autocompletion=names)
    ] = None,
) -> None:
    """Make a context the current one: commands talk to its server. Without a name, to the store of this machine."""
    known = Contexts.read()
    if name is not None:
        known.get(name)
    replace(known, current=name).write()
    say("no context is current" if name is None else f"{name} is the current context")


@context.command("set")
def set_(
    name: Name,
    *,
    server: Annotated[str, typer.Option("--server", metavar="URL", help="The daemon's address.")],
    token_file: Annotated[Path | None, typer.Option("--token-file", help="A file with the token.")] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help="The authority of its certificate.")] = None,
) -> None:
    """Add a context, or replace one."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name!r} is no name for a context; use letters, digits, '.', '_' and '-'")
    files = [None if file is None else file.expanduser().absolute() for file in (token_file, ca_file)]
    new = Server(url=server, token_file=files[0], ca_file=files[1])
    _ = new.token  # an unusable file is told now
    known = Contexts.read()
    replace(known, servers={**known.servers, name: new}).write()
    say(f"set {name}" if known.current == name else f"set {name}; `erratad context use {name}` makes it current")


@context.command()
def delete(name: Name) -> None:
    """Delete a context. Its token file stays."""
    known = Contexts.read()
    known.get(name)
    left = {one: server for one, server in known.servers.items() if one != name}
    replace(known, servers=left, current=None if known.current == name else known.current).write()
    say(f"deleted {name}")
