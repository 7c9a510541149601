"""Starts of runs, and the conditions against them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger

from connectors.messages import FlaggedResponse
from daemon.config import Config
from daemon.config.schedule import BlackoutWindow
from daemon.records import IntentKind, IntentState, Lesson, RunState, Source, Trigger, utcnow
from daemon.runtime.cron import missed_since
from daemon.schedule import ScheduleStage, in_blackout
from daemon.store import Store, open_store
from tests.fixtures.config import flagged, trusting
from tests.fixtures.life import life

ALL_DAY = {"start": "00:00", "end": "23:59"}


@pytest.fixture
def store(make_config: Callable[..., Config]) -> Iterator[Store]:
    store = open_store(make_config())
    yield store
    store.close()


@contextmanager
def _stage(store: Store, make_config: Callable[..., Config], **schedule: Any) -> Iterator[ScheduleStage]:
    config = make_config(schedule={"cron": None, "min_lessons": 3, **schedule})
    stage = ScheduleStage(
        store=store,
        config=config.schedule,
        dataset=config.dataset,
        policy=trusting(),
        alias=config.serving.alias,
        runs_dir=config.runs_dir,
    )
    yield stage
    stage.close()


def _learn(store: Store, count: int) -> None:
    reports: list[FlaggedResponse] = [flagged() for _ in range(count)]
    store.reports.add([(report, Source(channel="test")) for report in reports], reporter_cap=1000)
    for claim in store.reports.claim(owner="test", limit=count, lease_s=60):
        lesson = Lesson(
            report_id=claim.report.id, analysis="It is wrong.", analyst="t", template="v1", created_at=utcnow()
        )
        store.reports.complete(claim, lesson)


def test_enough_new_lessons_start_a_run(store: Store, make_config: Callable[..., Config]) -> None:
    with _stage(store, make_config) as stage:
        _learn(store, 2)
        assert "2 of 3" in stage.step(life()).sentence
        _learn(store, 1)
        stage.step(life())
    run = store.runs.active()
    assert run is not None
    assert (run.trigger, run.generation, run.state) == (Trigger.THRESHOLD, 1, RunState.PREPARING)


def test_only_one_run_is_active(store: Store, make_config: Callable[..., Config]) -> None:
    _learn(store, 3)
    with _stage(store, make_config) as stage:
        stage.step(life())
        store.intents.request(IntentKind.TRAIN, actor="op", reason="again")
        assert "not starting" in stage.step(life()).sentence
    assert len(store.runs.find()) == 1


def test_a_waiting_manual_start_follows_the_active_run(store: Store, make_config: Callable[..., Config]) -> None:
    _learn(store, 3)
    with _stage(store, make_config) as stage:
        stage.step(life())
        intent = store.intents.request(IntentKind.TRAIN, actor="op", reason="again")
        stage.step(life())
        assert store.intents.get(intent.id).state == IntentState.PENDING
        active = store.runs.active()
        assert active is not None
        store.runs.failed(active.id, reason="test")
        stage.step(life())
    assert store.intents.get(intent.id).state == IntentState.DONE
    assert [run.trigger for run in store.runs.find()] == [Trigger.MANUAL, Trigger.THRESHOLD]


def test_a_failed_run_is_not_repeated_by_the_threshold_at_once(
    store: Store, make_config: Callable[..., Config]
) -> None:
    _learn(store, 3)
    with _stage(store, make_config, retry_after_failure_s=0.3) as stage:
        stage.step(life())
        store.runs.failed(1, reason="disk full")
        assert "run 1 failed" in stage.step(life()).sentence
        assert store.runs.active() is None
        _wait_until(lambda: stage.step(life()).worked)
    assert [run.trigger for run in store.runs.find()] == [Trigger.THRESHOLD, Trigger.THRESHOLD]


def test_a_manual_start_without_lessons_is_refused_with_the_reason(
    store: Store, make_config: Callable[..., Config]
) -> None:
    intent = store.intents.request(IntentKind.TRAIN, actor="op", reason="now")
    with _stage(store, make_config) as stage:
        stage.step(life())
    answered = store.intents.get(intent.id)
    assert answered.state == IntentState.REFUSED
    assert "no lessons" in str(answered.outcome)


def test_a_blackout_holds_the_rule_back_but_not_an_operator(store: Store, make_config: Callable[..., Config]) -> None:
    _learn(store, 3)
    with _stage(store, make_config, blackout=[ALL_DAY]) as stage:
        assert "blackout" in stage.step(life()).sentence
        assert store.runs.active() is None
        store.intents.request(IntentKind.TRAIN, actor="op", reason="urgent")
        stage.step(life())
    assert store.runs.active() is not None


def test_a_missed_cron_time_starts_exactly_one_run(store: Store, make_config: Callable[..., Config]) -> None:
    _learn(store, 1)
    with _stage(store, make_config, cron="* * * * *", min_lessons=50, min_lessons_on_cron=1) as stage:
        _wait_until(lambda: stage.step(life()).worked)
    assert [run.trigger for run in store.runs.find()] == [Trigger.CRON]


def test_a_cron_time_with_too_few_lessons_passes(store: Store, make_config: Callable[..., Config]) -> None:
    with _stage(store, make_config, cron="* * * * *", min_lessons=50, min_lessons_on_cron=1) as stage:
        _wait_until(lambda: "passed without a run" in stage.step(life()).sentence)
    assert store.runs.find() == []


def _wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        threading.Event().wait(0.05)
    pytest.fail("did not happen within 5 s")


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-01-05T23:30", True),  # Monday
        ("2026-01-06T01:59", True),  # Tuesday, in Monday's window
        ("2026-01-06T02:00", False),
        ("2026-01-05T01:00", False),  # Monday, Sunday has no window
        ("2026-01-05T21:59", False),
    ],
)
def test_a_window_across_midnight_belongs_to_its_first_day(at: str, inside: bool) -> None:
    window = BlackoutWindow(days=["mon"], start="22:00", end="02:00")
    now = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert (in_blackout(now, [window], "UTC") is not None) is inside


def test_a_window_is_read_in_its_time_zone() -> None:
    window = BlackoutWindow(start="08:00", end="09:00")
    now = datetime(2026, 7, 1, 6, 30, tzinfo=UTC)
    assert in_blackout(now, [window], "Europe/Berlin") is not None
    assert in_blackout(now, [window], "UTC") is None


def test_missed_since_finds_the_first_time_after_the_mark() -> None:
    trigger = CronTrigger.from_crontab("0 3 * * *", timezone=UTC)
    now = datetime(2026, 1, 5, 3, 20, tzinfo=UTC)
    assert missed_since(trigger, datetime(2026, 1, 5, 2, 20, tzinfo=UTC), now) == datetime(2026, 1, 5, 3, tzinfo=UTC)
    assert missed_since(trigger, datetime(2026, 1, 5, 3, 0, tzinfo=UTC), now) is None
