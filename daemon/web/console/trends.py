"""The page of the last 30 days: flagged rate, queue, fixes and drift by day."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from daemon.config.web import Role
from daemon.records import utcnow
from daemon.store.trends import DayCount, Trends
from daemon.web.access import Identity
from daemon.web.console.charts import Tick
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.dependencies import require_viewer

DAYS = 30
MAX_SERIES = 5
"""Generations of one plot; the newest are shown."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 200, 72, 28, 12, 20
TICK_EVERY = 7
Values = Mapping[date, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    x: float
    y: float
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line. `path` breaks where a day has no data."""

    name: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Neighbouring days without data."""

    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPlot:
    width: int
    height: int
    left: int
    series: tuple[Series, ...]
    gaps: tuple[Gap, ...]
    days_without: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    rows: tuple[tuple[date, tuple[str, ...]], ...]
    """The figures of each day with data, newest first, one text for each series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    name: str
    title: str
    said: str
    empty: str
    plot: DayPlot | None


def trends_router(shell: Shell) -> APIRouter:
    router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/trends")
    def trends(request: Request, who: Identity = viewer) -> HTMLResponse:
        found = last_days(shell.store.trends, until=utcnow().date())
        return shell.page(request, who, "trends.html", trends=found, days=DAYS)

    return router


def last_days(store: Trends, *, until: date) -> list[Trend]:
    days = [until - timedelta(days=back) for back in reversed(range(DAYS))]
    since = days[0]
    rates = _rates(store.flagged(since=since), store.requests(since=since))
    queue = {one.day: one.count for one in store.queue(since=since)}
    return [
        Trend(
            name="flagged",
            title="Flagged answers by generation",
            said="Reports of a day for each request of the day, in percent. Duplicates, quarantined and induced "
            f"reports do not count. At most the {MAX_SERIES} newest generations.",
            empty="No request was counted in these days.",
            plot=day_plot(rates, days, _percent),
        ),
        Trend(
            name="queue",
            title="Queue",
            said="The most reports that waited for their analysis at one time of the day.",
            empty="No daemon ran in these days.",
            plot=day_plot({"longest queue": queue} if queue else {}, days, _count),
        ),
        Trend(
            name="fixes",
            title="Fixes",
            said="Reports that failed before and pass in the generation that went live on this day.",
            empty="No generation that fixed a report went live in these days.",
            plot=day_plot(_by_day("fixed", store.fixed(since=since), sum), days, _count),
        ),
        Trend(
            name="drift",
            title="Drift",
            said="The rise of the cost of ordinary answers of the day's candidate against live, in bits per token; "
            "the largest, where a day had several.",
            empty="No candidate was measured in these days.",
            plot=day_plot(_by_day("rise", store.drift(since=since), max), days, _bits),
        ),
    ]


def _rates(flagged: Sequence[DayCount], requests: Sequence[DayCount]) -> dict[str, dict[date, float]]:
    reports = {(one.day, one.generation): one.count for one in flagged}
    rates: dict[int, dict[date, float]] = {}
    for one in requests:
        if one.count and one.generation is not None:
            rate = reports.get((one.day, one.generation), 0.0) / one.count
            rates.setdefault(one.generation, {})[one.day] = rate
    newest = sorted(rates)[-MAX_SERIES:]
    return {f"generation {generation}" if generation else "base model": rates[generation] for generation in newest}


def _by_day(
    name: str, counts: Sequence[DayCount], combined: Callable[[Sequence[float]], float]
) -> dict[str, dict[date, float]]:
    found: dict[date, list[float]] = {}
    for one in counts:
        found.setdefault(one.day, []).append(one.count)
    return {name: {day: combined(values) for day, values in found.items()}} if found else {}


def day_plot(series: Mapping[str, Values], days: Sequence[date], shown: Callable[[float], str]) -> DayPlot | None:
    """None without any data. The y axis holds zero."""
    values = [value for one in series.values() for day, value in one.items() if day in days]
    if not values:
        return None
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1.0
    step = (WIDTH - LEFT - RIGHT) / len(days)

    def x_of(place: int) -> float:
        return round(LEFT + (place + 0.5) * step, 1)

    def y_of(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - BOTTOM - TOP), 1)

    lines = tuple(_line(name, one, days, shown, x_of=x_of, y_of=y_of) for name, one in series.items())
    without = [not any(day in one for one in series.values()) for day in days]
    ticks = range(len(days) - 1, -1, -TICK_EVERY)
    levels = dict.fromkeys((low, 0.0, (low + high) / 2 if low == 0.0 else 0.0, high))
    return DayPlot(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        series=lines,
        gaps=tuple(_gaps(without, step)),
        days_without=sum(without),
        x_ticks=tuple(Tick(at=x_of(place), label=f"{days[place]:%m-%d}") for place in ticks),
        y_ticks=tuple(Tick(at=y_of(level), label=shown(level)) for level in levels),
        rows=tuple(
            (day, tuple(shown(one[day]) if day in one else "no data" for one in series.values()))
            for day, missing in zip(reversed(days), reversed(without), strict=True)
            if not missing
        ),
    )


def _line(
    name: str,
    values: Values,
    days: Sequence[date],
    shown: Callable[[float], str],
    *,
    x_of: Callable[[int], float],
    y_of: Callable[[float], float],
) -> Series:
    path, dots, is_broken = [], [], True
    for place, day in enumerate(days):
        if day in values:
            dot = Dot(x=x_of(place), y=y_of(values[day]), said=f"{day}, {name}: {shown(values[day])}")
            path.append(f"{'M' if is_broken else 'L'}{dot.x},{dot.y}")
            dots.append(dot)
        is_broken = day not in values
    return Series(name=name, path=" ".join(path), dots=tuple(dots))


def _gaps(without: Sequence[bool], step: float) -> list[Gap]:
    gaps: list[Gap] = []
    start: int | None = None
    for place, missing in enumerate((*without, False)):
        if missing and start is None:
            start = place
        elif not missing and start is not None:
            gaps.append(Gap(x=round(LEFT + start * step, 1), width=round((place - start) * step, 1)))
            start = None
    return gaps


def _percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _bits(value: float) -> str:
    return f"{value:+.3f}" if value else "0"
