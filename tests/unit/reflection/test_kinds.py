"""A report that names no category: the analyst guesses its kind, from a closed set, before it is analysed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemon.categories import CategorySource, Kind
from daemon.operations.views import ReportRow
from daemon.records import ReportState
from daemon.reflection.kinds import named
from daemon.report_filter import ReportFilter
from tests.fixtures.config import flagged
from tests.fixtures.reflection import GOOD, ReflectionBench, Reply, ScriptedEndpoint, metric

ASKED = "Of which kind"


def sorting(kind: str, analysis: str = GOOD) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: (200, kind if ASKED in str(body) else analysis, "stop")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("wrong-fact", Kind.WRONG_FACT),
        ("Wrong fact.", Kind.WRONG_FACT),
        (" **SECRET_LEAK**\n", Kind.SECRET_LEAK),
        ("The kind is format: format.", Kind.FORMAT),
        ("default", Kind.DEFAULT),
        ("", Kind.DEFAULT),
        ("sarcasm", Kind.DEFAULT),
        ("information", Kind.DEFAULT),
        ("harmful or style", Kind.DEFAULT),
        ("prompt-injection: it obeys", Kind.PROMPT_INJECTION),
    ],
)
def test_a_reply_with_one_known_kind_is_a_guess_and_any_other_is_the_catch_all(reply: str, expected: Kind) -> None:
    assert named(reply) is expected


def test_the_kind_is_guessed_once_and_marked_before_the_report_is_analysed(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = sorting("wrong-fact", "no sentence")
    here = make_reflection()
    [report_id] = here.queue(flagged(category=None))
    assert here.store.reports.get(report_id).category_source is CategorySource.UNKNOWN
    before = metric("erratad_reflections_total", outcome="guessed")
    assert here.step().sentence == "analysed 1 report: 1 sorted by a guess"
    report = here.store.reports.get(report_id)
    assert (report.state, report.attempts, report.flagged.category) == (ReportState.QUEUED, 0, None)
    assert (report.kind, report.guessed_by) == (Kind.WRONG_FACT, "endpoint:judge")
    row = ReportRow.of(report)
    assert (row.category, row.category_source, row.category_text) == ("wrong-fact", "guessed", "wrong-fact (guessed)")
    assert metric("erratad_reflections_total", outcome="guessed") == before + 1
    analyst_endpoint.script = sorting("style")
    here.step()
    assert here.state(report_id) is ReportState.LESSON
    assert here.store.reports.get(report_id).kind is Kind.WRONG_FACT
    assert sum(ASKED in str(body) for body in analyst_endpoint.requests) == 1
    [found] = here.store.reports.find(ReportFilter(category="wrong-fact"))
    assert (found.id, here.store.reports.categories()) == (report_id, ["wrong-fact"])


def test_a_guess_is_no_hint_to_the_analyst_and_no_claim_of_a_template(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = sorting("harmful", "no sentence")
    here = make_reflection(max_attempts=1)
    [report_id] = here.queue(flagged(category=None))
    here.step()
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.template == "v1/template-default"
    assert "harm" not in lesson.analysis
    assert 'flagged as "' not in str(analyst_endpoint.requests[-1]["messages"])


def test_a_named_category_is_never_guessed_and_without_an_analyst_the_kind_stays_unknown(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    here = make_reflection()
    [named_one] = here.queue(flagged(category="my-own"))
    here.step()
    assert here.state(named_one) is ReportState.LESSON
    assert not any(ASKED in str(body) for body in analyst_endpoint.requests)
    alone = make_reflection(analyst=None)
    [bare] = alone.queue(flagged(category=None))
    alone.step()
    report = alone.store.reports.get(bare)
    assert (report.state, report.category, report.kind) == (ReportState.LESSON, "unknown", Kind.DEFAULT)


def test_a_guess_that_cannot_be_had_is_tried_again_like_an_analysis(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (500, "broken", "stop")
    here = make_reflection(max_attempts=2)
    [report_id] = here.queue(flagged(category=None))
    here.step()
    assert (here.state(report_id), here.store.reports.get(report_id).attempts) == (ReportState.QUEUED, 1)
    here.make_due()
    here.step()
    assert here.state(report_id) is ReportState.BURIED


def test_a_category_that_a_person_names_takes_the_place_of_a_guess(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = sorting("style")
    here = make_reflection()
    bare = flagged(category=None)
    here.queue(bare)
    here.step()
    [told] = here.queue(flagged(messages=bare.messages, response=bare.response, category="wrong-fact"))
    assert here.store.reports.get(bare.id).duplicate_of == told
