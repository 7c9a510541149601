"""The gauges of the database and the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from daemon.config.serving import ServingConfig
from daemon.operations import gauges as module
from daemon.operations.gauges import GaugesStage, WhenScraped
from daemon.promotion.approval import WAITS_SINCE
from daemon.records import INDUCED, Source
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.training.process import resident_bytes
from tests.fixtures.config import flagged, trusting
from tests.fixtures.life import life
from tests.fixtures.stores import add, learn, promote, run_to_verdict, start_run


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"erratad_{name}", labels)


@pytest.fixture
def gauges(sqlite_store: Store, tmp_path: Path) -> GaugesStage:
    return GaugesStage(
        store=sqlite_store,
        policy=trusting(),
        serving=ServingConfig(),
        data_dir=tmp_path,
        stages=["reflection", "promotion"],
    )


def show(gauges: GaugesStage) -> None:
    gauges.step(life())


def test_nothing_has_happened_yet(gauges: GaugesStage) -> None:
    show(gauges)
    assert value("new_lessons") == 0
    assert value("last_report_timestamp_seconds") == 0
    assert value("schedule_last_start_timestamp_seconds") == 0
    for outcome in ("promoted", "rejected", "failed"):
        assert value("run_last_end_timestamp_seconds", outcome=outcome) == 0
        assert value("runs_ended_in_a_row", outcome=outcome) == 0


def test_the_queue_and_what_waits_for_training(sqlite_store: Store, gauges: GaugesStage) -> None:
    learn(sqlite_store, flagged(), flagged())
    add(sqlite_store, flagged())
    show(gauges)
    assert value("reports", state="lesson") == 2
    assert value("reports", state="queued") == 1
    assert value("new_lessons") == 2
    assert 0 < (value("oldest_queued_report_age_seconds") or 0) < 60


def test_the_latest_report_is_one_that_erratad_did_not_induce(sqlite_store: Store, gauges: GaugesStage) -> None:
    before = time.time()
    add(sqlite_store, flagged())
    show(gauges)
    came = value("last_report_timestamp_seconds") or 0
    assert before <= came <= time.time()
    sqlite_store.reports.add([(flagged(), Source(channel="http", principal=INDUCED))], reporter_cap=200)
    show(gauges)
    assert value("last_report_timestamp_seconds") == came


def test_reports_are_counted_by_what_they_name(sqlite_store: Store, gauges: GaugesStage) -> None:
    for model in ("aligned-g000000", "base", "aligned", "aligned", "chat", "aligned-g000099"):
        add(sqlite_store, flagged(model=model))
    show(gauges)
    assert [value("reports_last_day", names=names) for names in ("generation", "alias", "other")] == [2, 2, 2]


def test_runs_that_ended_alike_are_counted_until_one_ends_otherwise(sqlite_store: Store, gauges: GaugesStage) -> None:
    promote(sqlite_store)
    run_to_verdict(sqlite_store, accepted=False)
    last = run_to_verdict(sqlite_store, accepted=False)
    show(gauges)
    assert value("runs_ended_in_a_row", outcome="rejected") == 2
    assert value("runs_ended_in_a_row", outcome="promoted") == 0
    assert last.finished_at is not None
    assert value("run_last_end_timestamp_seconds", outcome="rejected") == last.finished_at.timestamp()
    assert value("schedule_last_start_timestamp_seconds") == last.created_at.timestamp()
    promote(sqlite_store)
    show(gauges)
    assert value("runs_ended_in_a_row", outcome="rejected") == 0
    assert value("runs_ended_in_a_row", outcome="promoted") == 1


def test_a_blind_gate_is_shown_until_a_verdict_saw_enough(sqlite_store: Store, gauges: GaugesStage) -> None:
    show(gauges)
    assert value("gate_blind", criterion="live_golden") == 0
    unseen = {"criteria": {"live_golden": {"holds": False, "sentence": "?"}, "cut_answers": {"holds": True}}}
    run_to_verdict(sqlite_store, accepted=False, figures=unseen)
    show(gauges)
    assert value("gate_blind", criterion="live_golden") == 1
    assert value("gate_blind", criterion="cut_answers") == 0
    run_to_verdict(sqlite_store, accepted=False)
    show(gauges)
    assert value("gate_blind", criterion="live_golden") == 0


def test_signs_of_planted_reports_are_shown_until_a_verdict_without(sqlite_store: Store, gauges: GaugesStage) -> None:
    planted = {"criteria": {"memorised": {"holds": False, "sentence": "?"}, "shared_gain": {"holds": True}}}
    run_to_verdict(sqlite_store, accepted=False, figures=planted)
    show(gauges)
    assert value("gate_planted", criterion="memorised") == 1
    assert value("gate_planted", criterion="shared_gain") == 0
    assert value("gate_planted", criterion="new_contacts") == 0
    run_to_verdict(sqlite_store, accepted=False)
    show(gauges)
    assert value("gate_planted", criterion="memorised") == 0


def test_a_candidate_that_waits_for_a_person_is_shown(sqlite_store: Store, gauges: GaugesStage) -> None:
    run = run_to_verdict(sqlite_store)
    show(gauges)
    assert value("approval_waits_seconds") == 0
    sqlite_store.runs.progress(run.id, {WAITS_SINCE: time.time() - 100})
    show(gauges)
    assert value("approval_waits_seconds") == pytest.approx(100, abs=60)
    sqlite_store.runs.rejected(run.id, reason="no")
    show(gauges)
    assert value("approval_waits_seconds") == 0


def test_the_share_of_unusable_lessons_is_that_of_the_latest_run_with_a_dataset(
    sqlite_store: Store, gauges: GaugesStage
) -> None:
    show(gauges)
    assert value("dataset_left_out_ratio") == 0
    run = run_to_verdict(sqlite_store, accepted=False)
    left_out = {"too_long": 1, "template_refuses": 2, "max_reports": 40, "not_trainable": 9}
    sqlite_store.runs.progress(run.id, {"lessons": {"train": 5, "holdout": 2}, "left_out": left_out})
    start_run(sqlite_store)
    show(gauges)
    assert value("dataset_left_out_ratio") == 0.3


def test_the_active_run_and_pauses(sqlite_store: Store, gauges: GaugesStage) -> None:
    start_run(sqlite_store)
    sqlite_store.control.pause("promotion", actor="tester", reason="a test")
    show(gauges)
    assert [value("run_active", state=state) for state in ("preparing", "training")] == [1, 0]
    assert [value("stage_paused", stage=stage) for stage in ("reflection", "promotion")] == [0, 1]


def test_the_disk_that_holds_the_data(gauges: GaugesStage) -> None:
    show(gauges)
    assert 0 < (value("data_dir_free_bytes") or 0) < (value("data_dir_size_bytes") or 0)


def test_memory_of_a_process_covers_what_it_started() -> None:
    megabytes = "x = b'x' * 50_000_000; print('ready', flush=True); import time; time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {megabytes!r}])"
    command = [sys.executable, "-c", launcher]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert resident_bytes(process.pid) > 50_000_000
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert resident_bytes(process.pid) == 0


class _Counted:
    name = "gauges"
    idle_s = 5.0

    def __init__(self) -> None:
        self.steps = 0

    def step(self, _life: Life) -> Step:
        self.steps += 1
        return Step(sentence=f"read {self.steps}")


def test_figures_are_read_after_a_scrape_and_else_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    module.SCRAPED.clear()
    counted = _Counted()
    stage = WhenScraped(counted)
    assert [stage.step(life()).sentence for _ in range(3)] == ["read 1"] * 3
    module.exposition()
    assert [stage.step(life()).sentence for _ in range(2)] == ["read 2"] * 2
    monkeypatch.setattr(module, "UNSEEN_S", 0.0)
    assert stage.step(life()).sentence == "read 3"
