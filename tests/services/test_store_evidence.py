"""The evidence of reports: whose turn it is, what is stored, and that the queue is read by its index."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from connectors.messages import FlaggedResponse
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import INDUCED, Evidence, Source, Trigger
from daemon.store import Store
from daemon.store.evidence import AT_BIRTH, MAX_DETAIL, _next
from tests.fixtures.config import flagged
from tests.fixtures.stores import learn


def _from(store: Store, principal: str, count: int) -> list[str]:
    messages: list[FlaggedResponse] = [flagged() for _ in range(count)]
    for message in messages:
        store.reports.add([(message, Source(channel="http", principal=principal))], reporter_cap=100)
    return [message.id for message in messages]


def _due(store: Store, **options: object) -> list[str]:
    return [report.id for report in store.evidence.due(**options)]  # type: ignore[arg-type]


def test_principals_take_turns_each_with_its_oldest_reports(store: Store) -> None:
    a, b, c = _from(store, "a", 3), _from(store, "b", 1), _from(store, "c", 2)
    assert _due(store, limit=4) == [a[0], b[0], c[0], a[1]]
    assert _due(store, limit=10) == [a[0], b[0], c[0], a[1], c[1], a[2]]
    assert _due(store, limit=2, after="a") == [b[0], c[0]]
    assert _due(store, limit=2, after="c", skip={a[0]}) == [a[1], b[0]]
    assert _due(store, limit=0) == []


def test_what_was_found_is_stored_once(store: Store) -> None:
    [report_id] = _from(store, "a", 1)
    updated_at = store.reports.get(report_id).updated_at
    assert store.evidence.record(report_id, Evidence.REPRODUCED, "x" * 1000)
    assert not store.evidence.record(report_id, Evidence.CLAIMED, "later")
    found = store.reports.get(report_id)
    assert (found.evidence, found.evidence_detail) == (Evidence.REPRODUCED, "x" * MAX_DETAIL)
    assert (found.updated_at, _due(store, limit=5), store.evidence.waiting()) == (updated_at, [], 0)


def test_reports_are_counted_by_evidence(store: Store) -> None:
    first, _, _ = _from(store, "a", 3)
    store.evidence.record(first, Evidence.REPRODUCED, "in 1 of 3 answers")
    assert store.evidence.counts() == {
        Evidence.CONTRADICTED: 0, Evidence.CLAIMED: 2, Evidence.REPRODUCED: 1, Evidence.VERIFIED: 0,
    }  # fmt: skip
    assert store.evidence.waiting() == 2


def test_an_operator_asks_for_another_look(store: Store) -> None:
    claimed, contradicted, reproduced, erased = _from(store, "a", 4)
    store.evidence.record(claimed, Evidence.CLAIMED, "not in 3 answers")
    store.evidence.record(contradicted, Evidence.CONTRADICTED, "the exchange holds another answer")
    store.evidence.record(reproduced, Evidence.REPRODUCED, "in 3 of 3 answers")
    store.reports.erase(erased, actor="ops", reason="asked for")
    for report_id in (claimed, contradicted):
        store.evidence.look_again(report_id, actor="ops", reason="a new generation")
        assert store.audit.entries(limit=1)[0].action == "evidence"
        assert store.reports.get(report_id).evidence_detail is None
    assert _due(store, limit=5) == [claimed, contradicted]
    with pytest.raises(IllegalTransitionError, match="reproduced already: in 3 of 3 answers"):
        store.evidence.look_again(reproduced, actor="ops", reason="again")
    with pytest.raises(IllegalTransitionError, match="is erased"):
        store.evidence.look_again(erased, actor="ops", reason="again")
    with pytest.raises(NotFoundError):
        store.evidence.look_again("unknown", actor="ops", reason="again")


def test_erasing_a_report_takes_the_detail_of_its_evidence(store: Store) -> None:
    [report_id] = learn(store, flagged())
    store.evidence.record(report_id, Evidence.CLAIMED, "not asked again: message 1 holds an image")
    store.reports.erase(report_id, actor="ops", reason="asked for")
    assert store.reports.get(report_id).evidence_detail is None


def test_induced_reports_are_verified_at_birth(store: Store) -> None:
    run = store.inductions.start(trigger=Trigger.MANUAL, requested_by="tester")
    assert run is not None
    found = [flagged(reporter=INDUCED), flagged(reporter=INDUCED)]
    store.inductions.file(run, found, asked=2, position=2, reporter_cap=10)
    claims_to_be = flagged(id="induced-1", reporter=INDUCED)
    store.reports.add([(claims_to_be, Source(channel="http"))], reporter_cap=10)
    reports = [store.reports.get(one.id) for one in found]
    assert {(one.evidence, one.evidence_detail) for one in reports} == {(Evidence.VERIFIED, AT_BIRTH)}
    assert store.reports.get(claims_to_be.id).evidence is Evidence.CLAIMED


def test_the_next_report_is_found_by_the_index(sqlite_store: Store) -> None:
    query = _next("a", {"b"}).compile(sqlite_store.engine, compile_kwargs={"literal_binds": True})
    with sqlite_store.engine.connect() as connection:
        plan = " ".join(str(row.detail) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))
    assert "ix_reports_without_evidence" in plan
    assert "TEMP B-TREE" not in plan
