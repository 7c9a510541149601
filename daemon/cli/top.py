"""`erratad top`: the whole loop on one screen, updated continuously."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.backend import Backend, Document
from daemon.cli.connection import on_backend
from daemon.cli.output import cell, printable, say, style_of, terminal
from daemon.errors import DaemonUnreachableError, StoreUnavailableError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

FUNNEL = ("queued", "reflecting", "lesson", "resolved", "improved", "recurring")
"""The regular states of a report, in order. Other states are listed after them."""
BAR_WIDTH = 30
NO_DAEMON = 3


@on_backend
def top(
    backend: Backend,
    *,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, help="Seconds between two updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit, with 3 if no daemon runs.")] = False,
) -> None:
    """Watch the loop: funnel, live adapter, active run, stages, schedule. Ctrl-C quits."""
    if once:
        view, verdict = _read_status(backend)
        terminal().print(screen(view, verdict))
        raise typer.Exit(0 if view["daemon_runs"] else NO_DAEMON)
    _watch(backend, interval)


def _watch(backend: Backend, interval_s: float) -> None:
    from rich.live import Live

    try:
        with Live(console=terminal(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen_or_problem(backend), refresh=True)
                time.sleep(interval_s)
    except KeyboardInterrupt:
        say("left erratad top; the daemon is not affected")


def _screen_or_problem(backend: Backend) -> RenderableType:
    """The screen, or the problem if daemon or database does not answer: an outage must not end the view."""
    from rich.text import Text

    try:
        return screen(*_read_status(backend))
    except (StoreUnavailableError, DaemonUnreachableError) as exc:
        return Text(printable(f"{exc}\nTrying again; Ctrl-C quits."), style="red")


def _read_status(backend: Backend) -> tuple[Document, Document | None]:
    """The status, and the verdict on the last finished run."""
    view = backend.status()
    return view, None if view["last_run"] is None else backend.run(view["last_run"]["id"])["verdict"]


def screen(view: Document, verdict: Document | None) -> Group:
    """The whole screen, most important parts first."""
    from rich.console import Group

    running = (*_run(view), *_trial(view), *_verdict(verdict))
    return Group(*_headline(view), "", _funnel(view), "", *running, "", _stages(view))


def _headline(view: Document) -> Iterator[RenderableType]:
    from rich.text import Text

    at = datetime.fromisoformat(view["at"]).astimezone(UTC)
    yield Text(f"erratad {view['version']}   {at:%Y-%m-%d %H:%M:%S} UTC", style="bold")
    for number, sentence in enumerate(view["summary"]):
        warns = (number == 0 and not view["daemon_runs"]) or sentence.startswith("Paused")
        yield Text(printable(sentence), style="yellow" if warns else "")


def _funnel(view: Document) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    most = max([1, *view["reports"].values()])
    for state, count in sorted(view["reports"].items(), key=lambda counted: _place(counted[0])):
        if not count and state not in FUNNEL:
            continue
        bar = "█" * max(round(BAR_WIDTH * count / most), 1 if count else 0)
        table.add_row(str(state), Text(str(count), justify="right"), Text(bar, style=style_of(state) or "blue"))
    return table


def _place(state: str) -> int:
    return FUNNEL.index(state) if state in FUNNEL else len(FUNNEL)


def _run(view: Document) -> Iterator[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    if (run := view["active_run"]) is None:
        yield Text("No run is active.")
        return
    yield Text(f"Run {run['id']} for generation {run['generation']}: {run['state']}", style=style_of(run["state"]))
    if (share := progress_share(run)) is not None:
        yield ProgressBar(total=1.0, completed=share, width=BAR_WIDTH)


def progress_share(run: Document) -> float | None:
    """The progress of the current step of the run, from 0 to 1. None if unknown."""
    progress = run["progress"]
    evaluation = progress.get("evaluation", {})
    for done, total in (
        (evaluation.get("done"), evaluation.get("total")),
        (progress.get("step"), progress.get("steps")),
    ):
        if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
            return min(1.0, done / total)
    return None


def _trial(view: Document) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if (trial := view["trial"]) is None:
        return
    yield Text(f"{trial['name']} on trial: {trial['mode']} on {trial['share']:.0%}", style=style_of(trial["mode"]))
    table = Table("  RATE", "CANDIDATE", "LIVE", "P-VALUE OF A RISE", box=None, pad_edge=False)
    for rate in trial["rates"]:
        table.add_row(
            f"  {rate['name']}",
            f"{rate['candidate_events']} of {rate['candidate_requests']}",
            f"{rate['live_events']} of {rate['live_requests']}",
            f"{rate['p_value']:#.2g} (rolls back below {rate['level']:.2g})",
        )
    yield table


def _verdict(verdict: Document | None) -> Iterator[RenderableType]:
    from rich.text import Text

    if verdict is None:
        return
    word, style = ("accepted", "green") if verdict["accepted"] else ("rejected", "yellow")
    yield Text(f"Last verdict: {word}", style=style)
    for reason in verdict["reasons"]:
        yield Text(f"  {cell(reason)}")


def _stages(view: Document) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from daemon.operations.progress import span

    table = Table("STAGE", "LAST STEP", "WHAT IT DID", box=None, pad_edge=False)
    for stage in view["stages"]:
        age = Text(f"{span(stage['age_s'])} ago", style="red" if stage["silent"] else "")
        table.add_row(Text(stage["name"]), age, Text(cell(stage["sentence"])))
    return table
