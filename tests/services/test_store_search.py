"""Listings: filters, orders, totals, and reading all in batches."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import update

from connectors.messages import Severity
from daemon.records import Evidence, ReportState, Source
from daemon.report_filter import ReportFilter, ShownEvidence, Sort
from daemon.store import Store, schema
from daemon.store.engine import transaction
from tests.fixtures.config import flagged
from tests.fixtures.stores import add

DAY = date(2026, 11, 20)


@pytest.fixture
def listed(store: Store) -> Store:
    """Three reports of three days, oldest first by their ids."""
    add(store, flagged(id="a", severity="low", category="style", reporter="ann", tenant="east"))
    add(store, flagged(id="b", severity="high", category="format", reporter="bob", tenant="west"))
    store.reports.add([(flagged(id="c", reporter="ann"), Source(channel="http", principal="token:ci"))])
    table = schema.reports
    with transaction(store.engine) as connection:
        for place, report_id in enumerate("abc"):
            at = datetime(2026, 11, 20 + place, 23, 59, tzinfo=UTC)
            values = {"received_at": at, "updated_at": at + timedelta(days=(5, 9, 7)[place])}
            connection.execute(update(table).where(table.c.id == report_id).values(**values))
    store.evidence.record("b", Evidence.VERIFIED, "aligned-g000000 gave this answer")
    store.evidence.record("c", Evidence.CLAIMED, "not in 3 answers of aligned-g000000")
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ReportFilter(), "cba"),
        (ReportFilter(sort=Sort.OLDEST), "abc"),
        (ReportFilter(sort=Sort.CHANGED), "bca"),
        (ReportFilter(sort=Sort.SEVERITY), "bca"),
        (ReportFilter(severity=Severity.LOW), "a"),
        (ReportFilter(severity="medium"), "c"),
        (ReportFilter(evidence=ShownEvidence.VERIFIED), "b"),
        (ReportFilter(evidence="claimed"), "c"),
        (ReportFilter(evidence="unchecked"), "a"),
        (ReportFilter(tenant="west"), "b"),
        (ReportFilter(principal="token:ci"), "c"),
        (ReportFilter(reporter="ann"), "ca"),
        (ReportFilter(since=DAY + timedelta(days=1)), "cb"),
        (ReportFilter(until=DAY + timedelta(days=1)), "ba"),
        (ReportFilter(since=DAY, until=DAY), "a"),
        (ReportFilter(reporter="ann", severity="low", state=ReportState.QUEUED, tenant="east"), "a"),
        (ReportFilter(reporter="ann", severity="high"), ""),
        (ReportFilter(category="style", search="A"), "a"),
    ],
)
def test_a_listing_shows_what_fits_all_filters_in_its_order(listed: Store, wanted: ReportFilter, found: str) -> None:
    assert "".join(report.id for report in listed.reports.find(wanted)) == found
    assert listed.reports.count(wanted) == len(found)


def test_batches_hold_every_report_once_even_of_one_time(store: Store) -> None:
    add(store, *(flagged(id=f"r{number}") for number in range(7)))  # one transaction: one time
    add(store, flagged(id="late"))
    batches = [[report.id for report in batch] for batch in store.reports.batches(size=3)]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert [one for batch in batches for one in batch] == ["late", *(f"r{number}" for number in range(7))]
    assert list(store.reports.batches(ReportFilter(tenant="none"))) == [[]]


def test_a_filter_as_a_query_leaves_out_what_is_not_given() -> None:
    assert ReportFilter(state="queued", since=DAY, search="").query == {"state": "queued", "since": "2026-11-20"}
    assert ReportFilter(sort=Sort.SEVERITY).query == {"sort": "severity"}
