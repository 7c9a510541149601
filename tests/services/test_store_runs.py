"""Runs, clusters and adapters: refusals by the database itself, and changes in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from connectors.messages import EventType
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import (
    AdapterState,
    Answer,
    IntentKind,
    IntentState,
    ReportState,
    Run,
    RunItem,
    RunState,
    Split,
    Trigger,
)
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import force, learn, mark, promote, run_to_verdict, start_run, url_of, waiting_events


def answer(run: Run, **changes: Any) -> Answer:
    values = {"suite": "flagged", "item_id": "a", "arm": "aligned-g000001", "guided": True, "text": "Paris", **changes}
    return Answer(run_id=run.id, **values)


def test_a_run_owns_a_new_generation_that_follows_the_live_one(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    assert (run.state, run.generation, run.base_generation) == (RunState.PREPARING, 1, 0)
    assert run.folder == "/var/runs/g000001"
    adapter = store.adapters.get(1)
    assert (adapter.name, adapter.state, adapter.run_id) == ("aligned-g000001", AdapterState.TRAINING, run.id)
    assert store.runs.active() == run


def test_only_one_run_is_active_and_the_database_holds_to_it(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    assert start_run(store) is None
    with pytest.raises(IntegrityError, match="uq_runs_one_active"):
        force(
            store,
            "INSERT INTO runs"
            " (state, trigger, requested_by, generation, base_generation, recipe, seed, folder, progress, created_at,"
            " updated_at)"
            " SELECT state, trigger, requested_by, 99, 0, recipe, seed, folder, progress, created_at, updated_at"
            " FROM runs",
        )
    store.runs.failed(run.id, reason="out of memory")
    assert store.adapters.get(1).state == AdapterState.FAILED
    assert start_run(store) is not None


def test_daemons_that_start_a_run_at_once_start_one(store: Store, open_stores: Callable[[str], Store]) -> None:
    stores = [open_stores(url_of(store)) for _ in range(4)]
    barrier = threading.Barrier(len(stores))
    started: list[Run | None] = []
    failures: list[Exception] = []

    def start(own: Store) -> None:
        barrier.wait()
        try:
            started.append(start_run(own))
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=start, args=(own,)) for own in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(run is None for run in started) == [False, True, True, True]


def test_a_intent_for_a_run_ends_with_its_start_and_starts_no_other_one(store: Store) -> None:
    intent = store.intents.request(IntentKind.TRAIN, actor="op", reason="go")
    run = start_run(store, intent_id=intent.id)
    assert run is not None
    ended = store.intents.get(intent.id)
    assert (ended.state, ended.outcome) == (IntentState.DONE, f"started run {run.id} for generation 1")
    store.runs.failed(run.id, reason="ends")
    with pytest.raises(IllegalTransitionError, match="carried out before"):
        start_run(store, intent_id=intent.id)
    assert len(store.runs.find()) == 1
    with pytest.raises(NotFoundError):
        store.adapters.get(2)


def test_a_fault_while_a_run_starts_is_not_taken_for_another_active_run(store: Store) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)not.null"):
        store.runs.start(
            trigger=Trigger.CRON,
            requested_by="x",
            recipe=None,
            seed=1,
            alias="a",
            runs_dir=Path("/"),  # type: ignore[arg-type]
        )
    assert store.runs.active() is None


def test_an_item_of_a_holdout_cluster_cannot_be_trained_on(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    [report_id] = learn(store, flagged())
    cluster = store.clusters.open(
        report_id=report_id, category="wrong-fact", leader_text="A prompt", split=Split.HOLDOUT
    )
    item = RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=Split.TRAIN)
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        store.runs.prepared(run.id, [item])
    assert store.runs.get(run.id).state == RunState.PREPARING
    held_out = RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=Split.HOLDOUT)
    store.runs.prepared(run.id, [held_out])
    assert store.runs.items(run.id) == [held_out]


def test_a_cluster_keeps_its_split_and_a_report_its_cluster(store: Store) -> None:
    first, second = learn(store, flagged(), flagged())
    one = store.clusters.open(report_id=first, category="format", leader_text="One", split=Split.TRAIN)
    two = store.clusters.open(report_id=second, category="format", leader_text="Two", split=Split.HOLDOUT)
    with pytest.raises(IllegalTransitionError, match="clusters keep their split"):
        force(store, "UPDATE clusters SET split = 'holdout' WHERE id = :id", id=one.id)
    force(store, "UPDATE clusters SET split = 'train' WHERE id = :id", id=one.id)
    with pytest.raises(IllegalTransitionError, match=f"{first} is in cluster {one.id}"):
        store.clusters.join(first, two.id)
    store.clusters.join(first, one.id)
    assert store.clusters.all() == [one, two]
    assert store.reports.get(first).cluster_id == one.id


def test_a_report_that_a_run_used_cannot_change_its_cluster(store: Store) -> None:
    run = run_to_verdict(store)
    [item] = store.runs.items(run.id)
    [other] = learn(store, flagged())
    cluster = store.clusters.open(report_id=other, category="format", leader_text="X", split=Split.HOLDOUT)
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        force(store, "UPDATE reports SET cluster_id = :c WHERE id = :id", c=cluster.id, id=item.report_id)


def test_a_run_that_has_ended_cannot_fail_any_more(store: Store) -> None:
    run = promote(store)
    with pytest.raises(IllegalTransitionError, match="promoted already"):
        store.runs.failed(run.id, reason="late")
    with pytest.raises(IllegalTransitionError, match="is promoted, not training"):
        store.runs.trained(run.id, path=Path("/a"), sha256="0" * 64)
    assert store.adapters.live().generation == run.generation


def test_a_run_is_decided_once(store: Store) -> None:
    run = run_to_verdict(store)
    verdict = store.runs.verdict(run.id)
    assert verdict is not None
    with pytest.raises(IllegalTransitionError, match="is promoting, not evaluating"):
        store.runs.decided(verdict)


def test_progress_figures_are_merged(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    store.runs.progress(run.id, {"step": 1, "loss": float("nan")})
    store.runs.progress(run.id, {"step": 2})
    assert store.runs.get(run.id).progress == {"step": 2, "loss": None}


def test_an_evaluation_that_resumes_keeps_the_answers_that_it_had(store: Store) -> None:
    run = start_run(store)
    assert run is not None
    first = answer(run, passed=True, margin=1.5)
    store.runs.save_answers([first])
    store.runs.save_answers([answer(run, text="Rome"), answer(run, guided=False), answer(run, suite="golden")])
    assert store.runs.answers(run.id) == [answer(run, guided=False), first, answer(run, suite="golden")]
    assert store.runs.answers_to("a") == [answer(run, guided=False), first]
    store.runs.save_answers([])


def test_lineage_goes_from_a_report_to_the_adapters_trained_on_it(store: Store) -> None:
    run = run_to_verdict(store)
    [item] = store.runs.items(run.id)
    assert [adapter.generation for adapter in store.runs.trained_on(item.report_id)] == [run.generation]
    assert store.runs.trained_on("unknown") == []


def test_new_lessons_are_those_stored_since_the_last_run_that_did_not_fail_began(store: Store) -> None:
    learn(store, flagged(), flagged())
    assert store.reports.count_new_lessons() == 2
    run = start_run(store)
    assert store.reports.count_new_lessons() == 0
    learn(store, flagged())
    assert store.reports.count_new_lessons() == 1
    store.runs.failed(run.id, reason="the disk is full")
    assert store.reports.count_new_lessons() == 3


def test_reports_are_resolved_once_with_one_event(store: Store) -> None:
    ids = learn(store, flagged(), flagged())
    assert mark(store, [*ids, "unknown"], ReportState.RESOLVED, generation=3) == 2
    assert mark(store, ids, ReportState.RESOLVED, generation=4) == 0
    assert mark(store, ids[:1], ReportState.RECURRING, generation=4) == 1
    assert store.reports.get(ids[1]).resolved_generation == 3
    told = [event.subject for event in waiting_events(store) if event.type == EventType.REPORT_RESOLVED]
    assert told == sorted(ids)


def test_what_does_not_exist_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no run 7"):
        store.runs.get(7)
    with pytest.raises(NotFoundError, match="no generation 7"):
        store.adapters.get(7)
    assert store.runs.verdict(7) is None
    assert store.runs.active() is None
    assert store.adapters.previous() is None
