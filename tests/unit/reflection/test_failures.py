"""Stage "reflection" when requests fail, the analyst is out, a lease expires, or the process crashes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from connectors.messages import EventType
from daemon.config.reflection import EndpointConfig
from daemon.records import ReportState, utcnow
from daemon.reflection.analyst import EndpointAnalyst
from daemon.reflection.stage import MAX_CRASHES, MAX_REFUNDS
from daemon.report_filter import ReportFilter
from daemon.runtime.stage import Step
from daemon.store import Store
from tests.fixtures.config import flagged
from tests.fixtures.reflection import GOOD, ReflectionBench, Reply, ScriptedEndpoint, checked, metric, self_analyst
from tests.fixtures.stores import quarantine, url_of, waiting_events

# --- failures of one request ---


def test_a_request_that_fails_alone_is_retried_and_then_buried(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (500, "cannot read this", "")
    here = make_reflection(max_attempts=2)
    [report_id] = here.queue(flagged())
    assert here.step().sentence == "analysed 1 report: 1 to retry"
    here.make_due()
    assert here.step().sentence == "analysed 1 report: 1 buried"
    assert "cannot read this" in (here.store.reports.get(report_id).state_reason or "")


def test_a_request_that_can_never_succeed_is_buried_at_once(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (400, "the prompt is too long", "")
    here = make_reflection()
    [report_id] = here.queue(flagged())
    assert here.step().sentence == "analysed 1 report: 1 buried"
    assert "the prompt is too long" in (here.store.reports.get(report_id).state_reason or "")


def test_one_bad_report_does_not_hold_up_the_others(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda body: (
        (500, "boom", "") if "POISON" in json.dumps(body["messages"]) else (200, GOOD, "stop")
    )
    here = make_reflection(max_attempts=1, propose_corrections=False)
    bad, *good = here.queue(flagged(response="POISON"), flagged(), flagged())
    assert here.step().sentence == "analysed 3 reports: 2 lessons, 1 buried"
    assert here.state(bad) is ReportState.BURIED
    assert {here.state(report_id) for report_id in good} == {ReportState.LESSON}


@pytest.mark.parametrize(("backoff_s", "most_s"), [(40.0, 40.0), (5000.0, 600.0)])
def test_a_report_is_retried_after_a_wait_that_is_bounded_and_spread(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    backoff_s: float,
    most_s: float,
) -> None:
    analyst_endpoint.script = lambda _body: (500, "cannot read this", "")
    here = make_reflection(max_attempts=3, backoff_s=backoff_s, concurrency=20)
    here.queue(*(flagged() for _ in range(20)))
    here.step()
    waits_s = [(due - utcnow()).total_seconds() for due in _due(here.store)]
    assert len(waits_s) == 20
    assert most_s / 2 - 20 < min(waits_s) < most_s * 0.85
    assert max(waits_s) - min(waits_s) > most_s / 10
    assert max(waits_s) <= most_s


def test_the_wait_for_a_retry_doubles(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (500, "cannot read this", "")
    here = make_reflection(max_attempts=3, backoff_s=200.0)
    here.queue(flagged())
    for least_s, most_s in ((100.0, 200.0), (200.0, 400.0)):
        before = utcnow()
        here.make_due()
        here.step()
        [due] = _due(here.store)
        assert timedelta(seconds=least_s) <= due - before <= timedelta(seconds=most_s + 20)


def _due(store: Store) -> list[datetime]:
    reports = store.reports.find(ReportFilter(state=ReportState.QUEUED), limit=100)
    return [report.next_attempt_at for report in reports if report.next_attempt_at is not None]


# --- outages of the analyst ---


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_an_outage_neither_counts_attempts_nor_buries_the_queue(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, status: int
) -> None:
    analyst_endpoint.script, analyst_endpoint.probe_status = lambda _body: (status, "out of order", ""), status
    here = make_reflection(max_attempts=1, concurrency=2, propose_corrections=False)
    ids = here.queue(*(flagged() for _ in range(5)))
    assert here.step().sentence == "analysed 2 reports: 2 put back"
    asked = len(analyst_endpoint.requests)
    for _ in range(20):
        here.make_due()
        time.sleep(0.002)
        step = here.step()
        assert step.sentence.startswith("waiting, the analyst is out")
        assert not step.worked
    assert len(analyst_endpoint.requests) == asked
    reports = [here.store.reports.get(report_id) for report_id in ids]
    assert {(report.state, report.attempts) for report in reports} == {(ReportState.QUEUED, 0)}

    analyst_endpoint.script, analyst_endpoint.probe_status = lambda _body: (200, GOOD, "stop"), 200
    _until_idle(here)
    assert {here.state(report_id) for report_id in ids} == {ReportState.LESSON}


def test_an_endpoint_that_cannot_be_reached_is_an_outage(make_reflection: Callable[..., ReflectionBench]) -> None:
    config = EndpointConfig(url="http://127.0.0.1:9", model="judge")
    here = make_reflection(EndpointAnalyst(config, timeout_s=1.0), max_attempts=1)
    [report_id] = here.queue(flagged())
    assert here.step().sentence == "analysed 1 report: 1 put back"
    assert here.store.reports.get(report_id).attempts == 0


def test_while_no_server_is_ready_nothing_is_claimed(
    make_reflection: Callable[..., ReflectionBench], sqlite_store: Store
) -> None:
    here = make_reflection(self_analyst(sqlite_store, None))
    [report_id] = here.queue(flagged())
    step = here.step()
    assert step == Step(sentence="waiting for the analyst: none of 1 vLLM servers is ready", worked=False)
    assert here.store.reports.get(report_id).attempts == 0


def test_after_an_outage_reports_are_claimed_one_by_one_until_an_answer_came(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script, analyst_endpoint.probe_status = lambda _body: (503, "overloaded", ""), 503
    here = make_reflection(concurrency=3, propose_corrections=False)
    here.queue(*(flagged() for _ in range(6)))
    here.step()
    analyst_endpoint.script, analyst_endpoint.probe_status = lambda _body: (200, GOOD, "stop"), 200
    here.make_due()
    time.sleep(0.01)
    assert here.step().sentence == "analysed 1 report: 1 lesson"
    assert here.step().sentence == "analysed 5 reports: 5 lessons"


def test_during_an_outage_the_analyst_is_asked_at_growing_intervals(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    came: list[float] = []

    def down(_body: dict[str, Any]) -> Reply:
        came.append(time.monotonic())
        return 500, "down", ""

    monkeypatch.setattr(analyst_endpoint, "answer", down)
    here = make_reflection(backoff_s=0.05)
    here.queue(flagged())
    here.step()
    del came[:1]  # the report's own question
    deadline = time.monotonic() + 30
    while len(came) < 4:
        assert time.monotonic() < deadline
        here.step()
    gaps = [later - earlier for earlier, later in pairwise(came)]
    assert all(gap >= 0.05 * 2**number for number, gap in enumerate(gaps))


def test_a_report_that_brings_the_analyst_down_each_time_is_buried_in_the_end(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    def crash(_body: dict[str, Any]) -> Reply:
        analyst_endpoint.probe_status = 500
        return 500, "engine died", ""

    analyst_endpoint.script = crash
    here = make_reflection(max_attempts=2)
    [report_id] = here.queue(flagged())
    for _ in range(200):
        here.step()
        if here.state(report_id) is ReportState.BURIED:
            break
        here.make_due()
        analyst_endpoint.probe_status = 200
        time.sleep(0.002)
    assert here.state(report_id) is ReportState.BURIED
    assert len(analyst_endpoint.requests) == MAX_REFUNDS + 2


# --- leases, crashes and shutdown ---


def test_a_result_that_comes_after_the_lease_is_dropped(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, sqlite_store: Store
) -> None:
    here = make_reflection(propose_corrections=False)

    def slow(_body: dict[str, Any]) -> Reply:
        here.make_due()
        assert len(sqlite_store.reports.claim(owner="worker-2", limit=1, lease_s=60)) == 1
        return 200, GOOD, "stop"

    analyst_endpoint.script = slow
    [report_id] = here.queue(flagged())
    before = metric("erratad_reflections_total", outcome="late")
    assert here.step().sentence == "analysed 1 report: 1 too late and dropped"
    assert metric("erratad_reflections_total", outcome="late") == before + 1
    assert here.store.reports.lesson(report_id) is None
    assert here.store.reports.get(report_id).lease_owner == "worker-2"


def test_a_report_that_is_quarantined_meanwhile_gets_no_lesson(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection(propose_corrections=False)
    [report_id] = here.queue(flagged())

    def script(_body: dict[str, Any]) -> Reply:
        quarantine(here.store, report_id)
        return 200, GOOD, "stop"

    analyst_endpoint.script = script
    here.step()
    assert here.state(report_id) is ReportState.QUARANTINED
    assert here.store.reports.lesson(report_id) is None


def test_a_report_in_which_the_process_dies_again_and_again_is_buried_unseen(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection(max_attempts=2)
    [report_id] = here.queue(flagged())
    for _ in range(2 + MAX_CRASHES):
        assert here.store.reports.claim(owner="dead", limit=1, lease_s=60)
        here.make_due()
    assert here.step().sentence == "analysed 1 report: 1 buried"
    assert analyst_endpoint.requests == []
    assert "the daemon crashed during them" in (here.store.reports.get(report_id).state_reason or "")


def test_a_report_that_outlived_some_deaths_is_still_analysed(make_reflection: Callable[..., ReflectionBench]) -> None:
    here = make_reflection(max_attempts=1, propose_corrections=False)
    [report_id] = here.queue(flagged())
    for _ in range(MAX_CRASHES):
        assert here.store.reports.claim(owner="dead", limit=1, lease_s=60)
        here.make_due()
    here.step()
    assert here.state(report_id) is ReportState.LESSON


CHILD = """
import sys
from daemon.chat.preparation import Preparation
from daemon.reflection.analyst import EndpointAnalyst
from daemon.config.reflection import EndpointConfig, ReflectionConfig
from daemon.reflection.stage import ReflectionStage
from daemon.report_filter import ReportFilter
from daemon.store import open_store
from tests.fixtures.config import trusting
from tests.fixtures.life import life

store = open_store(sys.argv[1])
analyst = EndpointAnalyst(EndpointConfig(url=sys.argv[2], model="judge"), timeout_s=60)
config = ReflectionConfig()
stage = ReflectionStage(
    store=store,
    analyst=analyst,
    score=lambda *_: 0.0,
    preparation=Preparation(),
    policy=trusting(),
    config=config,
    guidance="",
    owner="child",
)
stage.step(life())
"""


def test_a_step_whose_process_is_killed_is_done_again_exactly_once(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    asked, killed = threading.Event(), threading.Event()

    def hang(_body: dict[str, Any]) -> Reply:
        asked.set()
        killed.wait(30)
        return 500, "the client is gone", ""

    analyst_endpoint.script = hang
    here = make_reflection(propose_corrections=False)
    [report_id] = here.queue(flagged())
    command = [sys.executable, "-c", CHILD, url_of(here.store), analyst_endpoint.url]
    child = subprocess.Popen(command)
    try:
        assert asked.wait(60)
    finally:
        child.kill()
        child.wait()
        killed.set()
    assert here.state(report_id) is ReportState.REFLECTING
    assert here.step().sentence == "no report is due"

    analyst_endpoint.script = lambda _body: (200, GOOD, "stop")
    here.make_due()
    assert here.step().sentence == "analysed 1 report: 1 lesson"
    created = [event for event in waiting_events(here.store) if event.type is EventType.LESSON_CREATED]
    assert [event.subject for event in created] == [report_id]
    assert here.step().sentence == "no report is due"


def test_a_stopping_daemon_puts_reports_back_uncounted_and_asks_no_more(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection()

    def script(_body: dict[str, Any]) -> Reply:
        here.stop.set()
        return 200, GOOD, "stop"

    analyst_endpoint.script = script
    [report_id] = here.queue(checked())
    step = here.step()
    assert step == Step(sentence="analysed 1 report: 1 put back", worked=False)
    report = here.store.reports.get(report_id)
    assert (report.state, report.attempts) == (ReportState.QUEUED, 0)
    assert len(analyst_endpoint.requests) == 1


def test_a_request_is_given_up_at_its_own_time_limit(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    release = threading.Event()

    def hang(_body: dict[str, Any]) -> Reply:
        release.wait(10)
        return 200, GOOD, "stop"

    analyst_endpoint.script = hang
    here = make_reflection("self", request_timeout_s=0.2, propose_corrections=False)
    [report_id] = here.queue(flagged())
    started = time.monotonic()
    try:
        assert here.step().sentence == "analysed 1 report: 1 to retry"
    finally:
        release.set()
    assert time.monotonic() - started < 5
    assert "no answer in time" in (here.store.reports.get(report_id).state_reason or "")


def _until_idle(here: ReflectionBench) -> None:
    for _ in range(100):
        here.make_due()
        if here.step().sentence == "no report is due":
            return
        time.sleep(0.002)
    pytest.fail("the queue was not worked off")
