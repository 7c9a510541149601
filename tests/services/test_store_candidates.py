"""The lessons that a run may choose from: a crowd of new reports hides nobody's older ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import text

from connectors.messages import FlaggedResponse
from daemon.records import Report, ReportState, Source
from daemon.store import Store
from daemon.store.candidates import _ranked
from tests.fixtures.config import flagged
from tests.fixtures.stores import lesson, mark


def learned(store: Store, principal: str, reporters: Iterable[str], **changes: Any) -> list[FlaggedResponse]:
    """One lesson each, newer than those before."""
    messages = [flagged(reporter=reporter, **changes) for reporter in reporters]
    source = Source(channel="test", principal=principal)
    store.reports.add([(message, source) for message in messages], reporter_cap=10_000)
    for claim in store.reports.claim(owner="w", limit=len(messages), lease_s=600):
        store.reports.complete(claim, lesson(claim.report.id))
    return messages


def read(store: Store, limit: int, per_reporter: int | None = None) -> list[Report]:
    return [report for report, _ in store.reports.trainable(limit=limit, per_reporter=per_reporter)]


def test_a_crowd_of_new_reports_hides_no_older_ones_of_others(store: Store) -> None:
    honest = [*learned(store, "app", (f"user-{number}" for number in range(5))), *learned(store, "site", ["ann"])]
    learned(store, "app", (f"sybil-{number}" for number in range(60)))
    learned(store, "anyone", (f"sybil-{number % 9}" for number in range(60)))
    found = read(store, 30)
    assert {one.id for one in honest} <= {one.id for one in found}
    assert Counter(one.source.principal for one in found) == {"app": 14, "anyone": 15, "site": 1}


def test_a_reporter_has_only_so_many_and_they_are_its_newest(store: Store) -> None:
    learned(store, "app", ["old"])
    newest = learned(store, "app", ["loud"] * 3)[-1:] + learned(store, "app", ["loud"])
    assert {one.id for one in read(store, 99, per_reporter=2) if one.flagged.reporter == "loud"} >= {newest[-1].id}
    assert Counter(one.flagged.reporter for one in read(store, 99, per_reporter=2)) == {"old": 1, "loud": 2}


def test_unresolved_ones_come_first_and_then_the_newest(store: Store) -> None:
    first, second = (learned(store, "app", ["ann"])[0] for _ in range(2))
    third = learned(store, "site", ["bob"])[0]
    mark(store, [third.id], ReportState.RESOLVED, generation=0)
    assert [one.id for one in read(store, 9)] == [second.id, first.id, third.id]
    assert [one.report_id for one in store.reports.lessons(limit=9)] == [second.id, first.id, third.id]
    assert [one.report_id for one in store.reports.lessons(limit=1)] == [second.id]


def test_reports_that_can_never_be_trained_on_take_no_place(store: Store) -> None:
    plain = learned(store, "app", ["ann"])[0]
    image = {"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}
    learned(store, "app", ["ann"] * 3, messages=[{"role": "user", "content": ["What is this?", image]}])
    assert [one.id for one in read(store, 1)] == [plain.id]


def test_they_are_ranked_by_an_index_alone(sqlite_store: Store) -> None:
    query = _ranked(10, None).compile(sqlite_store.engine, compile_kwargs={"literal_binds": True})
    with sqlite_store.engine.connect() as connection:
        plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}"))]
    [read_rows] = [line for line in plan if "reports" in line]
    assert read_rows == "SEARCH reports USING COVERING INDEX ix_reports_trainable (state=?)"


@pytest.mark.parametrize("limit", [1, 3])
def test_the_limit_holds(store: Store, limit: int) -> None:
    learned(store, "app", ["ann", "bob", "cid", "dan"])
    assert len(read(store, limit)) == limit
