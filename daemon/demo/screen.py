"""What the demo shows: a line per finished scene, and in a running one where it is and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from connectors.messages import FlaggedResponse
from daemon.operations.progress import span

LOG_WIDTH = 160
"""Width of the output without a terminal."""
LOG_EVERY_S = 20.0
"""Without a terminal, a running scene prints a line this often."""


class Scene:
    """A running scene. `seconds`: how long it has run."""

    def __init__(self, title: str, show: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._now = now
        self.begin(title)

    def begin(self, title: str) -> None:
        """Another title, from 0 seconds on."""
        self.title = title
        self.shown = ""
        self._started = self._now()
        self._first: tuple[float, float] | None = None
        """Seconds and `to_do` of the first look: the rate is measured from there."""

    @property
    def seconds(self) -> float:
        return self._now() - self._started

    def at(self, text: str, *, to_do: float | None = None, left_s: float | None = None) -> None:
        """Show where the scene is. The time left is `left_s`, or follows from the rate at which `to_do` falls."""
        left = self._left(to_do) if left_s is None and to_do is not None else left_s
        self.shown = text
        told = f", about {span(left)} left" if left else ""
        self._show(f"{self.title}: {text}{told}")

    def _left(self, to_do: float) -> float | None:
        if self._first is None:
            self._first = (self.seconds, to_do)
        since, before = self._first
        return to_do * (self.seconds - since) / (before - to_do) if to_do < before else None


class Screen:
    """The terminal, or plain lines where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        if not console.is_terminal:
            console.width = LOG_WIDTH
        self.print = console.print

    def say(self, title: str, text: str) -> None:
        """One line for a finished scene."""
        self._console.print(f"[green]✓[/green] [bold]{title}[/bold]  {text}", highlight=False)

    def example(self, report: FlaggedResponse) -> None:
        """One flagged answer in full, with the question and the complaint."""
        for name, text in (
            ("asked", str(report.messages[-1].text)),
            ("answered", report.response),
            ("flagged", report.reason or ""),
        ):
            self._console.print(f"  {name:>8}  {' '.join(text.split())}", style="dim", highlight=False, markup=False)

    @contextmanager
    def scene(self, title: str) -> Iterator[Scene]:
        with self._console.status(f"{title} ...") as spinner:
            yield Scene(title, spinner.update if self._console.is_terminal else self._lines())

    def _lines(self) -> Callable[[str], None]:
        last = time.monotonic()

        def show(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= LOG_EVERY_S:
                last = time.monotonic()
                self._console.print(f"  {text}", highlight=False, markup=False)

        return show
