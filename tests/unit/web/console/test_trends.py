"""The plots of the last days: lines, gaps, ticks, and the page."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

from daemon.records import utcnow
from daemon.store import Store
from daemon.store.traffic import Observed
from daemon.store.trends import DayCount
from daemon.web.console.trends import DAYS, HEIGHT, LEFT, MAX_SERIES, RIGHT, TOP, _percent, _rates, day_plot, last_days

START = date(2026, 11, 1)
WEEK = [START + timedelta(days=place) for place in range(10)]


def test_a_line_breaks_where_a_day_has_no_data_and_the_gap_is_shown() -> None:
    plot = day_plot({"a": {WEEK[0]: 1.0, WEEK[1]: 2.0, WEEK[4]: 4.0}}, WEEK, str)
    assert plot is not None
    [line] = plot.series
    assert [step[0] for step in line.path.split()] == ["M", "L", "M"]
    assert line.dots[2].y == TOP
    assert plot.days_without == 7
    step = (plot.width - LEFT - RIGHT) / 10
    assert [(gap.x, gap.width) for gap in plot.gaps] == [
        (round(LEFT + 2 * step, 1), round(2 * step, 1)),
        (round(LEFT + 5 * step, 1), round(5 * step, 1)),
    ]
    assert [row[0] for row in plot.rows] == [WEEK[4], WEEK[1], WEEK[0]]


def test_a_day_of_one_line_only_is_no_gap() -> None:
    plot = day_plot({"a": {WEEK[0]: 1.0}, "b": dict.fromkeys(WEEK, 2.0)}, WEEK, str)
    assert plot is not None
    assert (plot.gaps, plot.days_without) == ((), 0)
    assert plot.rows[0][1] == ("no data", "2.0")


def test_the_axis_holds_zero_also_where_every_value_is_zero_or_below() -> None:
    for values in ({WEEK[0]: 0.0}, {WEEK[0]: -0.5, WEEK[1]: 0.25}):
        plot = day_plot({"a": values}, WEEK, str)
        assert plot is not None
        assert "0.0" in {tick.label for tick in plot.y_ticks}
        assert all(TOP <= dot.y <= HEIGHT - 28 for dot in plot.series[0].dots)
    assert day_plot({}, WEEK, str) is None
    assert day_plot({"a": {START - timedelta(days=1): 3.0}}, WEEK, str) is None


def test_rates_are_reports_per_request_of_the_newest_generations() -> None:
    requests = [DayCount(day=START, count=200, generation=number) for number in range(MAX_SERIES + 2)]
    rates = _rates([DayCount(day=START, count=5, generation=6), DayCount(day=START, count=1, generation=99)], requests)
    assert list(rates) == [f"generation {number}" for number in range(2, 7)]
    assert rates["generation 6"] == {START: 0.025}
    assert _percent(0.025) == "2.5 %"
    assert list(_rates([], requests[:1])) == ["base model"]


def test_the_last_days_come_from_the_store(sqlite_store: Store) -> None:
    today = utcnow().date()
    at = datetime.combine(today - timedelta(days=3), time(12), tzinfo=utcnow().tzinfo)
    sqlite_store.traffic.add([Observed(epoch="a", generation=0, requests=50, errors=0)], at=at)
    sqlite_store.trends.note_queue(7, at=at)
    sqlite_store.trends.note_queue(9, at=at - timedelta(days=DAYS))
    flagged, queue, fixes, drift = last_days(sqlite_store.trends, until=today)
    assert (flagged.plot is not None, fixes.plot, drift.plot) == (True, None, None)
    assert queue.plot is not None
    assert queue.plot.rows == ((at.date(), ("7",)),)
    assert queue.plot.days_without == DAYS - 1
