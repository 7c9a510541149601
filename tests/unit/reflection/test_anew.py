"""Several analyses of a report, and new ones by the generation that went live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemon.config.reflection import ReflectionConfig
from daemon.dataset.recipes import recipe
from daemon.records import Lesson, ReportState
from daemon.store import Store
from daemon.store.anew import Anew
from tests.fixtures.config import flagged
from tests.fixtures.reflection import GOOD, USELESS, ReflectionBench, ScriptedEndpoint, metric
from tests.fixtures.stores import promote

OTHERS = (
    "This response is incorrect: it gives a town that governs nothing. A good response says the true capital.",
    "This response is false, since another town is the capital. A good response names that one and nothing else.",
)


def script(endpoint: ScriptedEndpoint, *texts: str) -> None:
    left = list(texts)
    endpoint.script = lambda _body: (200, left.pop(0) if len(left) > 1 else left[0], "stop")


def lesson_of(store: Store, report_id: str) -> Lesson:
    found = store.reports.lesson(report_id)
    assert found is not None
    return found


def test_all_different_analyses_that_pass_the_checks_are_targets(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    script(analyst_endpoint, GOOD, OTHERS[0], f"  {GOOD.upper()} ", USELESS, OTHERS[1])
    here = make_reflection(analyses_per_report=5, concurrency=1, propose_corrections=False)
    [report_id] = here.queue(flagged())
    here.step()
    lesson = lesson_of(here.store, report_id)
    assert [one.text for one in lesson.analyses] == [GOOD, *OTHERS]
    assert lesson.analysis == GOOD
    assert all(one.current and one.analyst == "endpoint:judge" and one.generation is None for one in lesson.analyses)
    assert {body["temperature"] for body in analyst_endpoint.requests} == {0.9}
    examples = recipe("mistake-analysis")(here.store.reports.get(report_id), lesson)
    assert [one.completion.removeprefix("Verdict: bad. ") for one in examples] == [GOOD, *OTHERS]
    assert len({one.messages[-1]["content"] for one in examples}) == 3


def test_one_passing_analysis_of_several_is_enough(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    script(analyst_endpoint, USELESS, GOOD, USELESS)
    here = make_reflection(analyses_per_report=3, concurrency=1, propose_corrections=False)
    [report_id] = here.queue(flagged())
    here.step()
    assert [one.text for one in lesson_of(here.store, report_id).analyses] == [GOOD]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"analyses_per_report": 4, "lease_s": 360}, "must exceed 6 times request_timeout_s"),
        ({"analyses_per_report": 2, "candidates": 2, "lease_s": 999}, "set one of them to 1"),
        ({"analyses_per_report": 9, "lease_s": 999}, "less than or equal to 8"),
    ],
)
def test_the_lease_counts_the_analyses_and_the_best_of_several_is_another_choice(
    values: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        ReflectionConfig.model_validate(values)


@pytest.fixture
def open_report(sqlite_store: Store) -> str:
    """A report that is still open after the promotion of generation 1."""
    return sqlite_store.runs.items(promote(sqlite_store).id)[0].report_id


def test_the_live_generation_analyses_an_open_report_anew_once(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, open_report: str
) -> None:
    script(analyst_endpoint, GOOD)
    here = make_reflection("self")
    before = metric("erratad_reflections_total", outcome="renewed")
    assert here.step().sentence == "analysed 1 open report anew: 1 renewed"
    lesson = lesson_of(here.store, open_report)
    assert (lesson.analysis, lesson.generation, here.state(open_report)) == (GOOD, 1, ReportState.LESSON)
    assert [(one.writer, one.current) for one in lesson.analyses] == [
        ("self", False),
        ("generation 1 (self:aligned-g000001)", True),
    ]
    assert here.step().sentence == "no report is due"
    assert metric("erratad_reflections_total", outcome="renewed") == before + 1
    assert {body["model"] for body in analyst_endpoint.requests} == {"aligned-g000001"}


def test_an_open_report_whose_new_analysis_fails_the_checks_keeps_the_old_one(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, open_report: str
) -> None:
    script(analyst_endpoint, USELESS)
    here = make_reflection("self")
    assert here.step().sentence == "analysed 1 open report anew: 1 kept"
    lesson = lesson_of(here.store, open_report)
    assert (lesson.analysis, lesson.generation) == ("It is wrong.", 1)
    assert here.step().sentence == "no report is due"


def test_queued_reports_come_first(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, open_report: str
) -> None:
    script(analyst_endpoint, GOOD)
    here = make_reflection("self")
    here.queue(flagged())
    assert here.step().sentence == "analysed 1 report: 1 lesson"
    assert lesson_of(here.store, open_report).generation is None


@pytest.mark.parametrize("changes", [{"analyse_again": False}, {"analyst": "endpoint"}, {"analyst": None}])
def test_it_can_be_off_and_another_analyst_does_not_change_with_a_promotion(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    open_report: str,
    changes: dict[str, Any],
) -> None:
    here = make_reflection(**{"analyst": "self", **changes})
    assert here.step().sentence == "no report is due"
    assert analyst_endpoint.requests == []
    assert lesson_of(here.store, open_report).generation is None


def test_during_an_outage_the_report_waits_and_is_analysed_after_it(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, open_report: str
) -> None:
    analyst_endpoint.script = lambda _body: (503, "starting", "stop")
    analyst_endpoint.probe_status = 503
    here = make_reflection("self")
    assert here.step().sentence == "analysed 1 open report anew: 1 returned"
    assert lesson_of(here.store, open_report).generation is None
    analyst_endpoint.probe_status = 200
    script(analyst_endpoint, GOOD)
    for _ in range(200):
        here.stage._renewals._nothing_due = None  # type: ignore[union-attr]
        if here.step().worked:
            break
    assert lesson_of(here.store, open_report).analysis == GOOD


def test_a_report_that_crashes_the_request_is_not_asked_again(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, open_report: str
) -> None:
    analyst_endpoint.script = lambda _body: (400, "too long", "stop")
    here = make_reflection("self")
    assert here.step().sentence == "analysed 1 open report anew: 1 kept"
    assert lesson_of(here.store, open_report).generation == 1
    assert here.step().sentence == "no report is due"


def test_an_idle_stage_asks_the_database_rarely_but_at_once_after_a_promotion(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    open_report: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script(analyst_endpoint, GOOD)
    here = make_reflection("self")
    here.step()
    asked: list[int] = []
    claim = Anew.claim
    monkeypatch.setattr(Anew, "claim", lambda own, **values: asked.append(values["live"]) or claim(own, **values))
    for _ in range(5):
        assert here.step().sentence == "no report is due"
    assert asked == [1]
    promote(here.store)
    assert here.step().worked
    assert asked == [1, 2]
    assert lesson_of(here.store, open_report).generation == 2
