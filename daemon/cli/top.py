"""`erratad top`: the whole loop on one screen, updated continuously."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigPath, Overrides, opened, settings
from daemon.cli.output import cell, printable, say, style_of, terminal
from daemon.errors import StoreUnavailableError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from daemon.config import Config
    from daemon.operations.status import StatusView
    from daemon.operations.views import RunRow, VerdictView
    from daemon.store import Store

FUNNEL = ("queued", "reflecting", "lesson", "resolved", "improved", "recurring")
"""The regular states of a report, in order. Other states are listed after them."""
BAR_WIDTH = 30
NO_DAEMON = 3


def top(
    *,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.2, help="Seconds between two updates.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit, with 3 if no daemon runs.")] = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Watch the loop: funnel, live adapter, active run, stages, schedule. Ctrl-C quits."""
    config = settings(config_path, overrides)
    with opened(config) as store:
        if once:
            view, verdict = _read_status(store, config)
            terminal().print(screen(view, verdict))
            raise typer.Exit(0 if view.daemon_runs else NO_DAEMON)
        _watch(store, config, interval)


def _watch(store: Store, config: Config, interval_s: float) -> None:
    from rich.live import Live

    try:
        with Live(console=terminal(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_screen_or_problem(store, config), refresh=True)
                time.sleep(interval_s)
    except KeyboardInterrupt:
        say("left erratad top; the daemon is not affected")


def _screen_or_problem(store: Store, config: Config) -> RenderableType:
    """The screen, or the problem if the database does not answer: an outage must not end the view."""
    from rich.text import Text

    try:
        return screen(*_read_status(store, config))
    except StoreUnavailableError as exc:
        return Text(printable(f"{exc}\nTrying again; Ctrl-C quits."), style="red")


def _read_status(store: Store, config: Config) -> tuple[StatusView, VerdictView | None]:
    """The status, and the verdict on the last finished run."""
    from daemon.operations.status import status
    from daemon.operations.views import run_view

    view = status(store, config)
    return view, None if view.last_run is None else run_view(store, view.last_run.id).verdict


def screen(view: StatusView, verdict: VerdictView | None) -> Group:
    """The whole screen, most important parts first."""
    from rich.console import Group

    running = (*_run(view), *_trial(view), *_verdict(verdict))
    return Group(*_headline(view), "", _funnel(view), "", *running, "", _stages(view))


def _headline(view: StatusView) -> Iterator[RenderableType]:
    from rich.text import Text

    from daemon.operations.status import sentences

    yield Text(f"erratad {view.version}   {view.at:%Y-%m-%d %H:%M:%S} UTC", style="bold")
    for number, sentence in enumerate(sentences(view)):
        warns = (number == 0 and not view.daemon_runs) or sentence.startswith("Paused")
        yield Text(printable(sentence), style="yellow" if warns else "")


def _funnel(view: StatusView) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    most = max([1, *view.reports.values()])
    for state, count in sorted(view.reports.items(), key=lambda counted: _place(counted[0])):
        if not count and state not in FUNNEL:
            continue
        bar = "█" * max(round(BAR_WIDTH * count / most), 1 if count else 0)
        table.add_row(str(state), Text(str(count), justify="right"), Text(bar, style=style_of(state) or "blue"))
    return table


def _place(state: str) -> int:
    return FUNNEL.index(state) if state in FUNNEL else len(FUNNEL)


def _run(view: StatusView) -> Iterator[RenderableType]:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    if (run := view.active_run) is None:
        yield Text("No run is active.")
        return
    yield Text(f"Run {run.id} for generation {run.generation}: {run.state}", style=style_of(run.state))
    if (share := progress_share(run)) is not None:
        yield ProgressBar(total=1.0, completed=share, width=BAR_WIDTH)


def progress_share(run: RunRow) -> float | None:
    """The progress of the current step of the run, from 0 to 1. None if unknown."""
    evaluation = run.progress.get("evaluation", {})
    for done, total in (
        (evaluation.get("done"), evaluation.get("total")),
        (run.progress.get("step"), run.progress.get("steps")),
    ):
        if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
            return min(1.0, done / total)
    return None


def _trial(view: StatusView) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if (trial := view.trial) is None:
        return
    yield Text(f"{trial.name} on trial: {trial.mode} on {trial.share:.0%}", style=style_of(trial.mode))
    table = Table("  RATE", "CANDIDATE", "LIVE", "P-VALUE OF A RISE", box=None, pad_edge=False)
    for rate in trial.rates:
        table.add_row(
            f"  {rate.name}",
            f"{rate.candidate_events} of {rate.candidate_requests}",
            f"{rate.live_events} of {rate.live_requests}",
            f"{rate.p_value:#.2g} (rolls back below {rate.level:.2g})",
        )
    yield table


def _verdict(verdict: VerdictView | None) -> Iterator[RenderableType]:
    from rich.text import Text

    if verdict is None:
        return
    word, style = ("accepted", "green") if verdict.accepted else ("rejected", "yellow")
    yield Text(f"Last verdict: {word}", style=style)
    for reason in verdict.reasons:
        yield Text(f"  {cell(reason)}")


def _stages(view: StatusView) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    from daemon.operations.progress import span
    from daemon.store.control import DAEMON_SILENT_S

    table = Table("STAGE", "LAST STEP", "WHAT IT DID", box=None, pad_edge=False)
    for stage in view.stages:
        silent = "red" if stage.age_s > DAEMON_SILENT_S else ""
        table.add_row(Text(stage.name), Text(f"{span(stage.age_s)} ago", style=silent), Text(cell(stage.sentence)))
    return table
