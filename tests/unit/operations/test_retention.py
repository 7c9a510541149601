"""The folders that are removed, and that no needed folder is among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.vllm import VllmServer
from daemon.adapter_names import strength_name
from daemon.config import StorageConfig
from daemon.errors import IllegalTransitionError, ServingError
from daemon.operations import retention
from daemon.operations.retention import RetentionStage
from daemon.records import Answer, IntentState, ReportState, Verdict, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import schema
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.serving import Bench
from tests.fixtures.stores import add, force, quarantine


@pytest.fixture
def stage(bench: Bench, tmp_path: Path) -> Callable[..., RetentionStage]:
    def make(**storage: Any) -> RetentionStage:
        return RetentionStage(
            store=bench.store,
            fleet=bench.fleet,
            config=StorageConfig(**storage),
            adapters_dir=tmp_path / "adapters",
            runs_dir=Path("/var/runs"),
        )

    return make


def _kept(tmp_path: Path) -> list[str]:
    return sorted(folder.name for folder in (tmp_path / "adapters").iterdir())


def test_old_folders_go_and_live_previous_and_candidate_stay(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path
) -> None:
    for _ in range(4):
        bench.promoted()
    bench.evaluating()
    bench.step()
    assert stage(keep_adapters=1).step(life()).sentence == "removed 2 folders"
    assert _kept(tmp_path) == ["g000003", "g000004", "g000005"]
    first = bench.store.adapters.get(1)
    assert first.files_removed_at is not None
    assert first.sha256 == "0" * 64, "the row stays"
    removals = [entry.subject for entry in bench.store.audit.entries() if entry.action == "files_removed"]
    assert sorted(removals) == ["aligned-g000001", "aligned-g000002"]
    assert stage(keep_adapters=1).step(life()).sentence.startswith("keeps 1 adapters")


def test_failures_do_not_push_out_what_can_be_rolled_back_to(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path
) -> None:
    for _ in range(3):
        bench.promoted()
    for _ in range(3):
        run = bench.evaluating()
        bench.store.runs.failed(run.id, reason="test")
    bench.step()
    stage(keep_adapters=2).step(life())
    assert _kept(tmp_path) == ["g000001", "g000002", "g000003", "g000005", "g000006"]


def test_a_rollback_to_removed_files_is_refused_with_the_reason(
    bench: Bench, stage: Callable[..., RetentionStage]
) -> None:
    for _ in range(3):
        bench.promoted()
    bench.step()
    stage(keep_adapters=1).step(life())
    intent = bench.ask_rollback(1)
    bench.step()
    answered = bench.store.intents.get(intent)
    assert answered.state == IntentState.REFUSED
    assert "the files of generation 1 were removed on" in (answered.outcome or "")
    assert "storage.keep_adapters" in (answered.outcome or "")
    with pytest.raises(IllegalTransitionError, match="files of generation 1 were removed"):
        bench.store.adapters.roll_back(1, expected_live=3, actor="test", reason="test")
    previous = bench.store.adapters.previous()
    assert previous is not None
    assert previous.generation == 2


def test_a_generation_that_just_went_live_is_not_marked(bench: Bench) -> None:
    bench.promoted()
    assert not bench.store.adapters.files_removed(1, "test")
    assert bench.store.adapters.get(1).files_removed_at is None


def test_what_a_server_still_holds_stays(
    bench: Bench, stage: Callable[..., RetentionStage], make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    for _ in range(3):
        bench.promoted()
    assert "aligned-g000001" in bench.loaded(0)
    stage(keep_adapters=1).step(life())
    assert "g000001" in _kept(tmp_path)
    bench.step()
    bench.fakes[2].stop()
    said = stage(keep_adapters=1).step(life()).sentence
    assert said.startswith("nothing is removed while a server cannot be asked")
    assert "g000001" in _kept(tmp_path)
    bench.fakes[2].start()
    stage(keep_adapters=1).step(life())
    assert "g000001" not in _kept(tmp_path)


def test_a_crash_after_the_mark_is_made_good_by_the_next_step(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(_folder: Path) -> None:
        raise Killed

    for _ in range(3):
        bench.promoted()
    bench.step()
    with monkeypatch.context() as patch:
        patch.setattr(retention.shutil, "rmtree", die)
        with pytest.raises(Killed):
            stage(keep_adapters=1).step(life())
    assert "g000001" in _kept(tmp_path)
    assert bench.store.adapters.get(1).files_removed_at is not None
    stage(keep_adapters=1).step(life())
    assert "g000001" not in _kept(tmp_path)


def test_the_strengths_that_were_not_chosen_go_when_the_gate_has_decided(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path
) -> None:
    run = bench.evaluating()
    folders = tmp_path / "adapters"
    name = bench.store.adapters.get(run.generation).name
    trained, weaker, weakest = (folders / strength_name(name, one) for one in (1.0, 0.75, 0.5))
    for folder in (trained, weaker, weakest):
        folder.mkdir()
    with bench.store.engine.begin() as connection:
        connection.execute(schema.adapters.update().where(schema.adapters.c.run_id == run.id).values(path=str(trained)))
    stage().step(life())
    assert {trained, weaker, weakest} < set(folders.iterdir()), "the gate has not decided"

    chosen = replace(bench.store.adapters.get(run.generation), name=weaker.name, path=str(weaker))
    verdict = Verdict(
        run_id=run.id, generation=run.generation, accepted=True, reasons=("better",), figures={}, decided_at=utcnow()
    )
    bench.store.runs.decided(verdict, served=chosen)
    stage().step(life())
    assert {path for path in folders.iterdir() if path.name.startswith("aligned")} == {weaker}


def test_folders_outside_the_daemons_own_are_never_removed(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path
) -> None:
    for _ in range(3):
        bench.promoted()
    bench.step()
    elsewhere = RetentionStage(
        store=bench.store,
        fleet=bench.fleet,
        config=StorageConfig(keep_adapters=1),
        adapters_dir=tmp_path / "other",
        runs_dir=tmp_path / "runs",
    )
    elsewhere.step(life())
    assert "g000001" in _kept(tmp_path)


def test_run_folders_go_by_their_age(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench.promoting()
    bench.step()
    ended = bench.store.runs.get(run.id)
    runs_dir = tmp_path / "runs"
    folder = runs_dir / Path(ended.folder).name
    folder.mkdir(parents=True)
    monkeypatch.setattr(
        type(bench.store.runs),
        "ended",
        lambda _self, *, before: [replace(ended, folder=str(folder))] if before > (ended.finished_at or before) else [],
    )
    stage = RetentionStage(
        store=bench.store,
        fleet=bench.fleet,
        config=StorageConfig(keep_runs_days=1),
        adapters_dir=tmp_path / "adapters",
        runs_dir=runs_dir,
    )
    stage.step(life())
    assert folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(retention, "utcnow", lambda: utcnow() + timedelta(days=1, minutes=1))
        stage.step(life())
    assert not folder.exists()


def test_runs_that_ended_are_found_by_time(bench: Bench) -> None:
    run = bench.promoting()
    assert bench.store.runs.ended(before=utcnow()) == []
    bench.step()
    assert [ended.id for ended in bench.store.runs.ended(before=utcnow())] == [run.id]
    assert bench.store.runs.ended(before=utcnow() - timedelta(days=1)) == []


def test_reports_that_no_run_used_are_deleted_when_they_are_old(
    bench: Bench, stage: Callable[..., RetentionStage]
) -> None:
    old, young = flagged(), flagged()
    add(bench.store, old, young)
    for one in (old, young):
        quarantine(bench.store, one.id)
    at = (utcnow() - timedelta(days=100)).strftime("%Y-%m-%d %H:%M:%S.%f")
    force(bench.store, "UPDATE reports SET received_at = :at WHERE id = :id", at=at, id=old.id)
    assert "removed" not in stage(keep_unused_reports_days=None).step(life()).sentence
    keeper = stage()
    step = keeper.step(life())
    assert (step.sentence, step.worked) == ("removed 1 reports that no run used", True)
    assert "reports" not in keeper.step(life()).sentence
    assert [report.id for report in bench.store.reports.find(ReportFilter(state=ReportState.QUARANTINED))] == [young.id]


def test_what_old_runs_measured_and_ended_daemons_said_is_deleted(
    bench: Bench, stage: Callable[..., RetentionStage], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        run = bench.promoted()
        task = Answer(
            run_id=run.run_id or 0,
            suite="golden",
            item_id="task",
            arm="live",
            guided=True,
            text="4",
            passed=True,
            margin=None,
        )
        bench.store.runs.save_answers([task])
    bench.step()
    bench.store.control.heartbeat({"ingest": "waiting"}, owner="ended")
    keeper = stage(keep_adapters=1, keep_runs_days=1)
    keeper.step(life())
    answered = [run.id for run in bench.store.runs.find() if bench.store.runs.answers(run.id)]
    assert len(answered) == 3
    assert len(bench.store.control.heartbeats()) == 1
    monkeypatch.setattr(retention, "utcnow", lambda: utcnow() + timedelta(days=1, minutes=1))
    stage(keep_adapters=1, keep_runs_days=1).step(life())
    assert [run.id for run in bench.store.runs.find() if bench.store.runs.answers(run.id)] == answered[:2]
    assert bench.store.control.heartbeats() == []


def test_an_adapter_leaves_the_store_of_the_servers_before_its_folder_goes(
    bench: Bench, stage: Callable[..., RetentionStage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        bench.promoted()
    bench.step()
    removed: list[str] = []
    reachable = False

    def unpublish(name: str) -> None:
        assert (tmp_path / "adapters" / "g000001").exists()
        if not reachable:
            raise ServingError("the store cannot be reached")
        removed.append(name)

    monkeypatch.setattr(bench.fleet, "unpublish", unpublish)
    stage(keep_adapters=1).step(life())
    assert "g000001" in _kept(tmp_path), "it is tried again as long as the folder is there"
    reachable = True
    stage(keep_adapters=1).step(life())
    assert removed == ["aligned-g000001"]
    assert "g000001" not in _kept(tmp_path)
