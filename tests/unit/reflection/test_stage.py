"""Stage "reflection" when the analyst answers: requests, checks and lessons."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.messages import EventType
from connectors.vllm import VllmServer
from daemon.config.reflection import ReflectionConfig
from daemon.errors import ConfigError
from daemon.records import CorrectionSource, ReportState
from daemon.reflection.analyst import EndpointAnalyst, SelfAnalyst, analyst_of
from daemon.runtime.stage import UNTIL_WRITTEN_S, Step
from daemon.store import Store
from tests.fakes.fleet import OneServer
from tests.fakes.vllm import FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.reflection import (
    GOOD,
    GUIDANCE,
    USELESS,
    ReflectionBench,
    Reply,
    ScriptedEndpoint,
    answering,
    checked,
    metric,
    self_analyst,
)
from tests.fixtures.stores import promote, waiting_events

# --- the normal case ---


def test_queued_reports_become_lessons(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection(propose_corrections=False)
    ids = here.queue(flagged(), flagged(), flagged())
    before = metric("erratad_reflections_total", outcome="lesson")
    step = here.step()
    assert step == Step(sentence="analysed 3 reports: 3 lessons", worked=True)
    assert metric("erratad_reflections_total", outcome="lesson") == before + 3
    for report_id in ids:
        lesson = here.store.reports.lesson(report_id)
        assert lesson is not None
        assert (lesson.analysis, lesson.analyst, lesson.template) == (GOOD, "endpoint:judge", "v1/analysis-guided")
        assert here.state(report_id) is ReportState.LESSON
    assert len(analyst_endpoint.requests) == 3


def test_all_reports_of_an_answer_are_analysed_as_one(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection()
    first = flagged(reporter="a")
    same = {"messages": first.messages, "response": first.response}
    second = flagged(**same, reporter="b", correction="Canberra.", checks={"must_contain": ["Canberra"]}, reason="")
    third = flagged(**same, reporter="c", reason="It sounds very rude to me.")
    here.queue(first, second, third)
    here.step()
    lesson = here.store.reports.lesson(first.id)
    assert lesson is not None
    assert (lesson.correction, lesson.correction_source) == ("Canberra.", CorrectionSource.USER)
    [asked] = analyst_endpoint.requests
    assert first.reason in str(asked)
    assert "It sounds very rude to me." in str(asked)


def test_an_empty_queue_is_said_and_rests(make_reflection: Callable[..., ReflectionBench]) -> None:
    assert make_reflection().step() == Step(sentence="no report is due", rest_s=UNTIL_WRITTEN_S)


@pytest.mark.parametrize(("guided", "told"), [(True, True), (False, False)])
def test_only_the_guided_analyst_is_told_the_reason(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, guided: bool, told: bool
) -> None:
    here = make_reflection(guided=guided, propose_corrections=False)
    [report_id] = here.queue(flagged())
    here.step()
    prompt = json.dumps(analyst_endpoint.requests[0]["messages"])
    assert ("The town named is not the capital." in prompt) is told
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.template == ("v1/analysis-guided" if guided else "v1/analysis-unguided")


def test_the_model_itself_is_asked_under_the_raw_name_of_the_live_generation(
    sqlite_store: Store,
    fake_vllm: FakeVllm,
    make_client: Callable[[str], VllmServer],
    make_reflection: Callable[..., ReflectionBench],
    tmp_path: Path,
) -> None:
    fake_vllm.answer = lambda _model, _messages: GOOD
    client = make_client(fake_vllm.url)
    here = make_reflection(self_analyst(sqlite_store, client))
    [first] = here.queue(flagged())
    here.step()
    promote(sqlite_store)
    name = sqlite_store.adapters.live().name
    (tmp_path / "adapter_config.json").touch()
    client.load(name, tmp_path)
    [second] = here.queue(flagged())
    here.step()
    assert [body["model"] for body in fake_vllm.requests] == ["base", name]
    assert all("Answer well." not in json.dumps(body["messages"]) for body in fake_vllm.requests)
    lessons = [sqlite_store.reports.lesson(report_id) for report_id in (first, second)]
    assert [lesson.analyst for lesson in lessons if lesson] == ["self:base", f"self:{name}"]


def test_requests_of_one_step_run_at_the_same_time(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    together = threading.Barrier(4, timeout=10)

    def script(_body: dict[str, Any]) -> Reply:
        together.wait()
        return 200, GOOD, "stop"

    analyst_endpoint.script = script
    here = make_reflection(concurrency=4, propose_corrections=False)
    here.queue(*(flagged() for _ in range(8)))
    assert here.step().sentence == "analysed 8 reports: 8 lessons"


def test_a_cut_off_analysis_is_kept_up_to_its_last_sentence(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, f"{GOOD} It also fails to", "length")
    here = make_reflection(propose_corrections=False)
    [report_id] = here.queue(flagged())
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.analysis == GOOD


def test_with_templates_as_analyst_nobody_is_asked(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection(None)
    [report_id] = here.queue(checked(category="secret-leak"))
    assert here.step().sentence == "analysed 1 report: 1 lesson from the template"
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.analyst, lesson.template) == ("template", "v1/template-secret-leak")
    assert lesson.correction is None
    assert analyst_endpoint.requests == []


# --- corrections ---


def test_the_users_correction_always_wins(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection()
    [report_id] = here.queue(checked(correction="It is Canberra."))
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.correction_source) == ("It is Canberra.", CorrectionSource.USER)
    assert len(analyst_endpoint.requests) == 1


@pytest.mark.parametrize(("analyst", "source"), [("endpoint", "analyst"), ("self", "guided")])
def test_a_guided_answer_that_passes_the_checks_is_kept(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, analyst: str, source: str
) -> None:
    analyst_endpoint.script = answering(GOOD)
    here = make_reflection(analyst)
    message = checked()
    before = metric("erratad_lessons_total", analyst=analyst, correction=source)
    [report_id] = here.queue(message)
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.correction_source) == ("The capital is Canberra.", CorrectionSource(source))
    assert metric("erratad_lessons_total", analyst=analyst, correction=source) == before + 1
    hint, *conversation = analyst_endpoint.requests[1]["messages"]
    assert hint["content"].startswith(GUIDANCE)
    assert message.reason in hint["content"]
    assert conversation == [{"role": "user", "content": message.messages[0].content}]


def test_a_guided_answer_that_fails_the_checks_is_not_kept(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = answering(GOOD, "The capital is Perth.")
    here = make_reflection()
    [report_id] = here.queue(checked())
    assert here.step().sentence == "analysed 1 report: 1 lesson"
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.correction_source) == (None, None)


@pytest.mark.parametrize(("analyst", "requests"), [("self", 1), ("endpoint", 2)])
def test_without_checks_only_another_models_answer_is_asked_for(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, analyst: str, requests: int
) -> None:
    analyst_endpoint.script = answering(GOOD)
    here = make_reflection(analyst)
    [report_id] = here.queue(flagged())
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction is not None) is (analyst == "endpoint")
    assert len(analyst_endpoint.requests) == requests


def test_a_correction_that_cannot_be_had_costs_no_lesson(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analysis = answering(GOOD)
    analyst_endpoint.script = lambda body: (
        analysis(body) if "You review" in body["messages"][0]["content"] else (400, "no tools here", "")
    )
    here = make_reflection()
    [report_id] = here.queue(checked())
    assert here.step().sentence == "analysed 1 report: 1 lesson"
    assert here.state(report_id) is ReportState.LESSON


def test_a_bad_correction_is_counted_and_reviewed_and_the_lesson_is_learned_without_it(
    make_reflection: Callable[..., ReflectionBench],
) -> None:
    here = make_reflection(None)
    before = metric("erratad_set_aside_total", source="user", fault="new_contact")
    [report_id] = here.queue(flagged(correction="It is Canberra, see evil-bank.com."))
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.set_aside_from) == (None, report_id)
    assert metric("erratad_set_aside_total", source="user", fault="new_contact") == before + 1
    assert [report.id for report, _ in here.store.reviews.set_aside(limit=5)] == [report_id]


def test_a_proposal_with_a_new_link_is_counted_and_not_kept(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = answering(GOOD, "It is Canberra, see evil-bank.com.")
    here = make_reflection()
    before = metric("erratad_set_aside_total", source="analyst", fault="new_contact")
    [report_id] = here.queue(checked())
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.correction is None
    assert metric("erratad_set_aside_total", source="analyst", fault="new_contact") == before + 1


# --- rejected analyses ---


def test_a_rejected_analysis_is_tried_again_warmer(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, USELESS, "stop")
    here = make_reflection(propose_corrections=False, temperature=0.0)
    [report_id] = here.queue(flagged())
    before = metric("erratad_analyses_rejected_total", check="names_reason")
    assert here.step().sentence == "analysed 1 report: 1 to retry"
    report = here.store.reports.get(report_id)
    assert report.state is ReportState.QUEUED
    assert "attempt 1 of 3: analysis rejected by check 'names_reason'" in (report.state_reason or "")
    assert report.next_attempt_at is not None
    analyst_endpoint.script = lambda _body: (200, GOOD, "stop")
    here.make_due()
    here.step()
    assert here.state(report_id) is ReportState.LESSON
    assert [body["temperature"] for body in analyst_endpoint.requests] == [0.0, pytest.approx(0.2)]
    assert metric("erratad_analyses_rejected_total", check="names_reason") == before + 1


def test_after_the_last_rejected_analysis_the_template_stands_in(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, USELESS, "stop")
    here = make_reflection(max_attempts=2)
    [report_id] = here.queue(flagged(correction="It is Vienna."))
    here.step()
    here.make_due()
    assert here.step().sentence == "analysed 1 report: 1 lesson from the template"
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.analyst, lesson.template) == ("template", "v1/template-wrong-fact")
    assert (lesson.correction, lesson.correction_source) == ("It is Vienna.", CorrectionSource.USER)


def test_without_the_fallback_it_is_buried_with_the_reason(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, USELESS, "stop")
    here = make_reflection(max_attempts=1, fallback_to_template=False)
    [report_id] = here.queue(flagged())
    assert here.step().sentence == "analysed 1 report: 1 buried"
    report = here.store.reports.get(report_id)
    assert report.state is ReportState.BURIED
    assert "gave up after 1 attempts" in (report.state_reason or "")
    assert "names_reason" in (report.state_reason or "")
    assert EventType.REPORT_BURIED in {event.type for event in waiting_events(here.store)}


def test_a_buried_report_that_is_revived_is_tried_afresh(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, USELESS, "stop")
    here = make_reflection(max_attempts=1, fallback_to_template=False)
    [report_id] = here.queue(flagged())
    here.step()
    here.store.reports.requeue(report_id, actor="operator", reason="a better analyst")
    analyst_endpoint.script = lambda _body: (200, GOOD, "stop")
    here.step()
    assert here.state(report_id) is ReportState.LESSON


# --- configuration ---


@pytest.mark.parametrize(("analyst", "kind"), [("self", SelfAnalyst), ("endpoint", EndpointAnalyst)])
def test_the_configured_analyst_is_asked(sqlite_store: Store, analyst: str, kind: type) -> None:
    config = ReflectionConfig.model_validate({"analyst": analyst, "endpoint": {"url": "http://x", "model": "m"}})
    made = analyst_of(config, fleet=OneServer(None), adapters=sqlite_store.adapters, base_name="base")
    assert isinstance(made, kind)


def test_the_template_analyst_is_nobody(sqlite_store: Store) -> None:
    config = ReflectionConfig(analyst="template")
    assert analyst_of(config, fleet=OneServer(None), adapters=sqlite_store.adapters, base_name="base") is None


def test_an_unset_key_of_the_endpoint_is_an_error_at_the_start(sqlite_store: Store) -> None:
    endpoint = {"url": "http://x", "model": "m", "api_key_env": "ERRATAD_TEST_UNSET"}
    config = ReflectionConfig.model_validate({"analyst": "endpoint", "endpoint": endpoint})
    with pytest.raises(ConfigError, match="ERRATAD_TEST_UNSET"):
        analyst_of(config, fleet=OneServer(None), adapters=sqlite_store.adapters, base_name="base")


def test_a_lease_must_outlast_the_requests() -> None:
    with pytest.raises(ValueError, match="lease_s"):
        ReflectionConfig(lease_s=60, request_timeout_s=20)
    assert ReflectionConfig(lease_s=61, request_timeout_s=20).lease_s == 61
