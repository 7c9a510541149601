"""Output of the commands: tables for people, JSON for programs. Unseen characters of texts are shown as codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from daemon.text.visible import visible

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 1000
"""Width of a table in a file or a pipe, wide enough to avoid wrapping."""
CELL = 160
"""Maximum number of characters in a table cell."""
_STATE_STYLE = {
    **dict.fromkeys(("live", "resolved", "promoted"), "green"),
    **dict.fromkeys(
        ("candidate", "canary", "shadow", "training", "evaluating", "promoting", "reflecting", "preparing"), "cyan"
    ),
    **dict.fromkeys(("quarantined", "recurring", "improved", "rejected"), "yellow"),
    **dict.fromkeys(("buried", "failed", "rolled-back"), "red"),
}


def print_json(value: object) -> None:
    """Print ASCII JSON: equal in every locale and without control characters."""
    typer.echo(json.dumps(value, indent=2))


def say(text: str = "") -> None:
    typer.echo(printable(text))


def warn(text: str) -> None:
    typer.echo(f"erratad: {printable(text)}", err=True)


def heading(text: str) -> None:
    """Print a heading line, bold on a terminal."""
    typer.secho(
        f"\n{printable(text)}",
        bold=True,
        color=None if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else False,
    )


def indented(text: str) -> None:
    for line in printable(text).splitlines() or [""]:
        typer.echo(f"    {line}".rstrip())


def listing(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], *, empty: str, as_json: bool) -> None:
    """Print documents as one JSON document or as a table. `columns` maps each heading to a field."""
    if as_json:
        print_json(rows)
    else:
        table(tuple(columns), [[row[field] for field in columns.values()] for row in rows], empty=empty)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under headings, or `empty` if there are no rows. The first column is never wrapped.

    The headings say what a text is: under "... (UTC)" a time, under "STATE" a state, which is coloured.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    listed = [[Text(*_styled(column, value)) for column, value in zip(columns, row, strict=True)] for row in rows]
    if not listed:
        say(empty)
        return
    on_terminal = sys.stdout.isatty()
    view = Table(box=SIMPLE_HEAD if on_terminal else None, pad_edge=False)
    for number, column in enumerate(columns):
        view.add_column(column, no_wrap=number == 0)
    for row in listed:
        view.add_row(*row)
    terminal().print(view)


def terminal() -> Console:
    """The console for tables. On a terminal it uses its width and colours (no colours with NO_COLOR); else plain."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PIPED_WIDTH, no_color=True, force_terminal=False)


def _styled(column: str, value: object) -> tuple[str, str]:
    if column.endswith("(UTC)") and isinstance(value, str):
        value = datetime.fromisoformat(value).astimezone(UTC)
    return cell(value), style_of(str(value)) if column == "STATE" else ""


def style_of(state: str) -> str:
    """The colour of a state. It only repeats the word."""
    return _STATE_STYLE.get(state, "")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr, on a terminal only. Yields `advance(done, of)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def cell(value: object) -> str:
    """The value as one line: times in UTC to the second, None as an empty text, long texts clipped."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(printable(str(value)).split())
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


def printable(text: str) -> str:
    """The text with control characters (all but tab and line feed) and other unseen ones as codes: ⟨U+001B⟩."""
    return visible(text.replace("\r\n", "\n"))
