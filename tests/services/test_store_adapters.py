"""Adapters: one is live, with its evidence, under concurrent daemons and operators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from connectors.messages import EventType
from daemon.errors import IllegalTransitionError
from daemon.records import (
    AdapterState,
    RunState,
)
from daemon.store import Store
from tests.fixtures.stores import force, promote, run_to_verdict, start_run, url_of, waiting_events


def test_an_accepted_run_is_promoted_in_one_step(store: Store) -> None:
    run = run_to_verdict(store)
    assert run.state == RunState.PROMOTING
    store.adapters.promote(run.generation, expected_live=0, actor="gate", reason="better")
    assert store.adapters.live().generation == run.generation
    assert store.adapters.get(0).state == AdapterState.RETIRED
    assert store.runs.get(run.id).state == RunState.PROMOTED
    assert EventType.ADAPTER_PROMOTED in [event.type for event in waiting_events(store)]
    assert store.audit.entries()[0].action == "promoted"


def test_a_rejected_run_ends_with_its_adapter_and_its_reasons(store: Store) -> None:
    run = run_to_verdict(store, accepted=False)
    assert (run.state, run.reason) == (RunState.REJECTED, "a reason")
    assert run.finished_at is not None
    adapter = store.adapters.get(run.generation)
    assert (adapter.state, adapter.reason) == (AdapterState.REJECTED, "a reason")
    verdict = store.runs.verdict(run.id)
    assert verdict is not None
    assert (verdict.accepted, verdict.figures) == (False, {"live_generation": 0})
    with pytest.raises(IllegalTransitionError):
        store.adapters.promote(run.generation, expected_live=0, actor="op", reason="I like it")
    assert store.adapters.live().generation == 0


def test_nothing_goes_live_without_an_accepting_verdict(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    store.runs.prepared(run.id, [])
    store.runs.trained(run.id, path=Path("/a"), sha256="0" * 64)
    with pytest.raises(IllegalTransitionError, match="no accepting verdict"):
        store.adapters.promote(run.generation, expected_live=0, actor="op", reason="hurry")
    force(store, "UPDATE adapters SET state = 'retired' WHERE generation = 0")
    with pytest.raises(IntegrityError, match="ck_adapters_evidence"):
        force(store, "UPDATE adapters SET state = 'live' WHERE generation = 1")
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        force(
            store,
            "UPDATE adapters SET state = 'live', evidence_run_id = run_id, evidence_accepted = TRUE"
            " WHERE generation = 1",
        )


def test_a_rejecting_verdict_cannot_serve_as_evidence(store: Store) -> None:
    run = run_to_verdict(store)
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        force(store, "UPDATE verdicts SET accepted = FALSE WHERE run_id = :id", id=run.id)


def test_one_adapter_is_live_and_the_database_holds_to_it(store: Store) -> None:
    run = run_to_verdict(store)
    with pytest.raises(IntegrityError, match=r"uq_adapters_one_live|adapters\.state"):
        force(store, "UPDATE adapters SET state = 'live' WHERE generation = :g", g=run.generation)


def test_a_promotion_that_expects_another_live_generation_is_refused(store: Store) -> None:
    promote(store)
    run = run_to_verdict(store)
    with pytest.raises(IllegalTransitionError, match="generation 1 is live, not 0"):
        store.adapters.promote(run.generation, expected_live=0, actor="gate", reason="stale")
    store.runs.rejected(run.id, reason="stale")
    assert store.adapters.live().generation == 1


def test_daemons_that_promote_at_once_leave_one_live_and_a_clear_error(
    store: Store, open_stores: Callable[[str], Store]
) -> None:
    run = run_to_verdict(store)
    barrier = threading.Barrier(3)
    failures: list[Exception] = []

    def go(own: Store) -> None:
        barrier.wait()
        try:
            own.adapters.promote(run.generation, expected_live=0, actor="gate", reason="better")
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=go, args=(open_stores(url_of(store)),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(failure) for failure in failures] == [IllegalTransitionError] * 2
    assert store.adapters.live().generation == run.generation


def test_a_rolled_back_generation_that_a_person_approves_comes_back_and_nothing_is_held_against_the_older_one(
    store: Store,
) -> None:
    promote(store)
    promote(store)
    with pytest.raises(IllegalTransitionError, match="generation 2 is live: only a rolled-back one is approved"):
        store.adapters.approve(2, actor="admin", reason="why")
    store.adapters.roll_back(1, expected_live=2, actor="op", reason="a crowd of names")
    store.adapters.approve(2, actor="admin", reason="the flags were forged")
    entry = store.audit.entries(limit=1)[0]
    assert (entry.actor, entry.action, entry.reason) == ("admin", "approved", "the flags were forged")
    assert store.adapters.get(2).state == AdapterState.RETIRED
    store.adapters.roll_back(2, expected_live=1, actor="admin", reason="approved again")
    assert (store.adapters.live().generation, store.adapters.get(1).state) == (2, AdapterState.RETIRED)
    assert store.adapters.previous() == store.adapters.get(1)


def test_a_generation_without_files_is_not_approved(store: Store) -> None:
    promote(store)
    promote(store)
    store.adapters.roll_back(1, expected_live=2, actor="op", reason="worse")
    assert store.adapters.files_removed(2, "old")
    with pytest.raises(IllegalTransitionError, match="the files of generation 2 were removed"):
        store.adapters.approve(2, actor="admin", reason="why")


def test_a_rolled_back_generation_does_not_come_back_by_itself(store: Store) -> None:
    promote(store)
    promote(store)
    assert store.adapters.previous() == store.adapters.get(1)
    store.adapters.roll_back(1, expected_live=2, actor="op", reason="worse")
    assert (store.adapters.live().generation, store.adapters.get(2).state) == (1, AdapterState.ROLLED_BACK)
    with pytest.raises(IllegalTransitionError):
        store.adapters.roll_back(2, expected_live=1, actor="op", reason="again")
    store.adapters.roll_back(0, expected_live=1, actor="op", reason="base")
    assert store.adapters.live().generation == 0
