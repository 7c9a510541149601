"""The account of what runs left out: per report and run, and never more about a report than it may keep."""

from __future__ import annotations

from pathlib import Path

from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.records import Run, RunItem, RunState, Split
from daemon.store import Store
from daemon.store.left_out import LATEST, MAX_DETAIL
from tests.fixtures.config import flagged
from tests.fixtures.stores import learn, run_to_verdict, start_run


def _left_out(run: Run | int, report_id: str, **changes: object) -> LeftOutReport:
    values = {"stage": LeftOutBy.DATASET, "reason": LeftOut.TOO_LONG, "detail": "900 tokens", **changes}
    return LeftOutReport(run_id=run if isinstance(run, int) else run.id, report_id=report_id, **values)  # type: ignore[arg-type]


def _started(store: Store) -> Run:
    run = start_run(store)
    assert run is not None
    return run


def test_the_account_of_a_run_is_stored_once_per_report_and_stage(store: Store) -> None:
    first, second = sorted(learn(store, flagged(), flagged()))
    run = _started(store)
    found = [_left_out(run, first), _left_out(run, second, reason=LeftOut.TEMPLATE_REFUSES)]
    measured = _left_out(run, first, stage=LeftOutBy.EVALUATION, reason=LeftOut.SERVER_REFUSES)

    store.left_out.add(found)
    store.runs.prepared(run.id, [], left_out=[_left_out(run, first, reason=LeftOut.EMPTY), measured])

    assert store.left_out.of_run(run.id) == [found[0], measured, found[1]]
    assert store.left_out.of_report(second) == [found[1]]
    assert store.left_out.of_report("unknown") == []
    store.left_out.add([])


def test_a_detail_is_short_and_can_always_be_stored(store: Store) -> None:
    [report_id] = learn(store, flagged())
    run = _started(store)
    store.left_out.add([_left_out(run, report_id, detail="\x00\ud800" + "x" * 1000)])
    [kept] = store.left_out.of_report(report_id)
    assert len(kept.detail) == MAX_DETAIL
    assert kept.detail.startswith("\N{REPLACEMENT CHARACTER}?x")


def test_an_erased_report_keeps_the_reason_but_no_text(store: Store) -> None:
    [report_id] = learn(store, flagged())
    run = _started(store)
    store.left_out.add([_left_out(run, report_id, detail="the template refuses 'my secret'")])
    store.reports.erase(report_id, actor="op", reason="asked")
    assert store.left_out.of_report(report_id) == [_left_out(run, report_id, detail="")]


def test_only_the_latest_runs_of_a_report_are_read_newest_first(store: Store) -> None:
    [report_id] = learn(store, flagged())
    runs = []
    for _ in range(LATEST + 1):
        runs.append(_started(store))
        store.left_out.add([_left_out(runs[-1], report_id)])
        store.runs.failed(runs[-1].id, reason="nothing is left")
    assert [one.run_id for one in store.left_out.of_report(report_id)] == [run.id for run in reversed(runs[1:])]


def test_a_report_counts_as_unusable_until_a_later_run_uses_it(store: Store) -> None:
    [report_id] = learn(store, flagged())
    assert store.left_out.still(report_id) is None
    run = _started(store)
    store.left_out.add([_left_out(run, report_id)])
    assert store.left_out.still(report_id) == _left_out(run, report_id)
    store.runs.failed(run.id, reason="nothing is left")

    later = _started(store)
    assert store.left_out.still(report_id) == _left_out(run, report_id)
    cluster = store.clusters.open(report_id=report_id, category="x", leader_text="A prompt", split=Split.TRAIN)
    store.runs.prepared(
        later.id, [RunItem(run_id=later.id, report_id=report_id, cluster_id=cluster.id, role=Split.TRAIN)]
    )
    assert store.left_out.still(report_id) is None


def test_what_only_the_measurement_left_out_is_still_usable(store: Store) -> None:
    [report_id] = learn(store, flagged())
    store.left_out.add([_left_out(_started(store), report_id, stage=LeftOutBy.EVALUATION)])
    assert store.left_out.still(report_id) is None


def test_a_report_without_a_training_step_leaves_the_run(store: Store) -> None:
    ids = sorted(learn(store, flagged(), flagged(), flagged()))
    run = _started(store)
    roles = dict(zip(ids, (Split.TRAIN, Split.TRAIN, Split.HOLDOUT), strict=True))
    items = []
    for report_id, role in roles.items():
        cluster = store.clusters.open(report_id=report_id, category="x", leader_text=report_id, split=role)
        items.append(RunItem(run_id=run.id, report_id=report_id, cluster_id=cluster.id, role=role))
    store.runs.prepared(run.id, items)

    assert store.runs.trained(run.id, path=Path("/a"), sha256="0" * 64, report_ids=ids[:1]) == {LeftOut.NOT_REACHED: 1}

    assert store.runs.get(run.id).state is RunState.EVALUATING
    assert [item.report_id for item in store.runs.items(run.id)] == [ids[0], ids[2]]
    assert [adapter.generation for adapter in store.runs.trained_on(ids[0])] == [run.generation]
    assert store.runs.trained_on(ids[1]) == []
    assert store.left_out.of_run(run.id) == [
        _left_out(run, ids[1], stage=LeftOutBy.FINETUNE, reason=LeftOut.NOT_REACHED, detail="")
    ]


def test_a_run_whose_trainer_names_no_reports_keeps_all(store: Store) -> None:
    run = run_to_verdict(store)
    assert len(store.runs.items(run.id)) == 1
    assert store.left_out.of_run(run.id) == []
