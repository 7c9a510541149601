"""`erratad init`: a first configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import say, warn
from daemon.errors import ConfigError


def init(
    *,
    model: Annotated[
        str, typer.Option(help="Folder of a Hugging Face model, or its name on the hub if it was downloaded.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("erratad.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
) -> None:
    """Write a commented configuration for a model, and check both.

    The check is that of check-config: chat template, system role, end of an answer, context length, memory, and
    whether the model can be trained and served here. Exits with 2 if there is a problem; the file is written then, too.
    """
    from daemon.operations.new_config import find_model, new_config, written

    folder = find_model(model)
    text = new_config(folder, named=model)
    if out.exists() and not force:
        raise ConfigError(f"{out} exists; choose another file with --out, or overwrite it with --force")
    found = written(text, out)
    for line in (*found.notes, *found.problems):
        warn(line)
    if found.problems:
        warn(f"{out} is written; solve the problems above, then: erratad check-config -c {out}")
        raise typer.Exit(2)
    say(f"{out} is written and valid. Next: erratad run -c {out}")
