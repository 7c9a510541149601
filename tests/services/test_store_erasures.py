"""Erasures in the store: adapters that were trained on a report, and what may happen to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.errors import ErasedMeanwhileError, IllegalTransitionError, NotFoundError
from daemon.records import AfterErasure, Answer, ReportState, RunItem, Split
from daemon.store import Added, Store
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, learn, lesson, promote, start_run, waiting_events


def trained_report(store: Store, generation: int) -> str:
    run_id = store.adapters.get(generation).run_id
    assert run_id is not None
    return store.runs.items(run_id)[0].report_id


def two_generations(store: Store) -> str:
    """Generations 1 and 2 were live; returns the report that 1 was trained on."""
    promote(store)
    promote(store)
    return trained_report(store, 1)


@pytest.mark.parametrize("after", AfterErasure)
def test_an_adapter_that_was_trained_on_an_erased_report_is_marked_and_by_policy_withdrawn(
    store: Store, after: AfterErasure
) -> None:
    report_id = two_generations(store)
    assert store.reports.erase(report_id, actor="op", reason="asked", after=after) == [report_id]
    assert store.erasures.marked() == {1: [report_id]}
    assert [adapter.generation for adapter in store.erasures.adapters(report_id)] == [1]
    is_withdrawn = after is not AfterErasure.KEEP
    assert [adapter.generation for adapter in store.erasures.withdrawn()] == [1] * is_withdrawn
    target = store.erasures.untouched_target()
    assert target is not None
    assert target.generation == (0 if is_withdrawn else 1)
    previous = store.adapters.previous()
    assert previous is not None
    assert previous.generation == target.generation
    if is_withdrawn:
        with pytest.raises(IllegalTransitionError, match="trained on a report that is erased"):
            store.adapters.roll_back(1, expected_live=2, actor="op", reason="worse")
    else:
        store.adapters.roll_back(1, expected_live=2, actor="op", reason="worse")


def test_a_generation_trained_after_the_erasure_is_not_marked(store: Store) -> None:
    """The other report of the same answer learns again without the erased part."""
    first = flagged(reporter="anna")
    second = first.model_copy(update={"id": "second", "reporter": "bert", "reason": "It names the wrong river."})
    add(store, first, second)
    [claim] = store.reports.claim(owner="r", limit=5, lease_s=60)
    store.reports.complete(claim, lesson(first.id, analysis="It names the wrong river and town."))
    touched = store.reports.erase("second", actor="op", reason="asked", after=AfterErasure.RETIRE)
    assert touched == ["second", first.id]
    [claim] = store.reports.claim(owner="r", limit=5, lease_s=60)
    store.reports.complete(claim, lesson(first.id))
    run = start_run(store)
    assert run is not None
    cluster = store.clusters.open(report_id=first.id, category="wrong-fact", leader_text="A", split=Split.TRAIN)
    store.runs.prepared(run.id, [RunItem(run_id=run.id, report_id=first.id, cluster_id=cluster.id, role=Split.TRAIN)])
    assert store.erasures.marked() == {}


def test_a_dataset_with_a_report_that_is_erased_meanwhile_is_made_again(store: Store) -> None:
    [report_id] = learn(store, flagged())
    run = start_run(store)
    assert run is not None
    store.reports.erase(report_id, actor="op", reason="asked")
    cluster = store.clusters.open(report_id=report_id, category="x", leader_text="My address", split=Split.TRAIN)
    item = RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=Split.TRAIN)
    with pytest.raises(ErasedMeanwhileError, match=report_id):
        store.runs.prepared(run.id, [item])
    assert store.clusters.all()[0].leader_text == "[erased]"
    assert store.runs.items(run.id) == []


def test_a_measured_answer_that_comes_after_the_erasure_has_no_text(store: Store) -> None:
    [report_id] = learn(store, flagged())
    run = start_run(store)
    assert run is not None
    store.reports.erase(report_id, actor="op", reason="asked")
    answer = Answer(run_id=run.id, suite="flagged", item_id=report_id, arm="a", guided=False, text="It is private.")
    store.runs.save_answers([answer])
    assert store.runs.answers(run.id)[0].text == "[erased]"


def test_whatever_comes_again_under_the_id_of_an_erased_report_is_not_stored(store: Store) -> None:
    message = flagged()
    add(store, message)
    store.reports.erase(message.id, actor="op", reason="asked")
    changed = message.model_copy(update={"reason": "Something else."})
    assert add(store, message, changed) == [Added.REDELIVERED, Added.REDELIVERED]
    assert store.reports.get(message.id).state is ReportState.ERASED


def test_a_certificate_is_kept_with_the_erasure(store: Store) -> None:
    [report_id] = learn(store, flagged())
    with pytest.raises(NotFoundError, match="was not erased"):
        store.erasures.get(report_id)
    store.reports.erase(report_id, actor="op", reason="asked")
    assert store.erasures.get(report_id).certificate is None
    store.erasures.certify(report_id, {"version": 1})
    found = store.erasures.get(report_id)
    assert (found.actor, found.after, found.lessons) == ("op", AfterErasure.KEEP, (report_id,))
    assert found.certificate == {"version": 1}


def test_a_purge_empties_the_log_of_sqlite_and_works_on_postgresql(store: Store, tmp_path: Path) -> None:
    add(store, *(flagged(reason=f"mark-{number} " * 50) for number in range(200)))
    assert store.erasures.purge()
    assert all(path.stat().st_size == 0 for path in tmp_path.glob("*-wal"))


def test_a_buried_report_is_told_without_quotes_of_it(store: Store) -> None:
    [report_id] = learn(store, flagged(reason="My surgeon is named Ignatius Quill."))
    store.reviews.reject(report_id, actor="op", reason="says 'my surgeon is named Ignatius' to all")
    assert waiting_events(store)[-1].data["reason"] == "says '[erased]' to all"
