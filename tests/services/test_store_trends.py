"""Figures by day, on both databases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import update

from daemon.records import utcnow
from daemon.retest import Passes, Retest
from daemon.store import Store, schema
from daemon.store.engine import transaction
from daemon.store.retests import keep_retests
from daemon.store.traffic import Observed
from daemon.store.trends import DayCount
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, promote, quarantine, run_to_verdict

LATE, EARLY = datetime(2026, 11, 20, 23, 58, tzinfo=UTC), datetime(2026, 11, 21, 0, 3, tzinfo=UTC)
SINCE = date(2026, 11, 20)


def received(store: Store, report_id: str, at: datetime) -> None:
    with transaction(store.engine) as connection:
        connection.execute(update(schema.reports).where(schema.reports.c.id == report_id).values(received_at=at))


def test_the_longest_queue_of_a_day_is_kept(store: Store) -> None:
    for queued, at in ((3, LATE), (9, LATE), (4, LATE), (0, EARLY)):
        store.trends.note_queue(queued, at=at)
    first, second = DayCount(day=SINCE, count=9), DayCount(day=SINCE + timedelta(days=1), count=0)
    assert store.trends.queue(since=SINCE) == [first, second]
    assert store.trends.queue(since=second.day) == [second]


def test_requests_and_reports_are_counted_by_day_and_generation(store: Store) -> None:
    name = store.adapters.live().name
    for at, requests in ((LATE, 30), (EARLY, 70)):
        store.traffic.add([Observed(epoch="a", generation=0, requests=requests, errors=0)], at=at)
    reports = [flagged(id=one, model=name) for one in ("late", "early", "held", "old")]
    add(store, *reports, flagged(id="elsewhere", model="another"))
    quarantine(store, "held")
    for report_id, at in (("late", LATE), ("early", EARLY), ("held", EARLY), ("old", LATE - timedelta(days=1))):
        received(store, report_id, at)
    days = SINCE, SINCE + timedelta(days=1)
    requests = [DayCount(day=day, count=count, generation=0) for day, count in zip(days, (30, 40), strict=True)]
    assert store.trends.requests(since=SINCE) == requests
    assert store.trends.flagged(since=SINCE)[:2] == [DayCount(day=day, count=1, generation=0) for day in days]
    assert store.trends.requests(since=days[1]) == requests[1:]


def test_fixes_are_those_of_generations_that_went_live(store: Store) -> None:
    run = run_to_verdict(store)
    [item] = store.runs.items(run.id)
    found = Retest.of(run.id, item.report_id, Passes(passed=0, answers=4), Passes(passed=4, answers=4), answers=4)
    with transaction(store.engine) as connection:
        keep_retests(connection, [found], live=None)
    yesterday = utcnow().date() - timedelta(days=1)
    assert store.trends.fixed(since=yesterday) == []
    store.adapters.promote(run.generation, expected_live=0, actor="op", reason="good")
    assert [(one.count, one.generation) for one in store.trends.fixed(since=yesterday)] == [(1, run.generation)]


def test_drift_is_read_from_the_verdicts_that_measured_it(store: Store) -> None:
    run = run_to_verdict(store, figures={"bits_per_token_rise": 0.25, "live_generation": 0})
    promote_day = utcnow().date()
    [found] = store.trends.drift(since=promote_day - timedelta(days=1))
    assert (found.count, found.generation) == (pytest.approx(0.25), run.generation)
    force(store, "UPDATE verdicts SET figures = '{\"bits_per_token_rise\": null}'")
    assert store.trends.drift(since=promote_day - timedelta(days=1)) == []


def test_a_store_without_a_past_has_no_days(store: Store) -> None:
    promote(store)
    trends = store.trends
    assert trends.queue(since=SINCE) == trends.requests(since=SINCE) == trends.fixed(since=SINCE) == []
