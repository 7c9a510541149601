"""A correction that nobody else confirms: the analyst is asked whether it prefers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemon.config.reflection import EndpointConfig
from daemon.config.trust import TrustConfig
from daemon.reflection.analyst import EndpointAnalyst
from daemon.trust.policy import Policy
from tests.fixtures.config import flagged
from tests.fixtures.reflection import GOOD, ReflectionBench, Reply, ScriptedEndpoint

ASKED = "Which answer is better"
STRICT = Policy(TrustConfig(), trusted=[])
WRONG = "It is Sydney."
RIGHT = "The capital of Australia is Canberra."


def _judging(*verdicts: str) -> Callable[[dict[str, Any]], Reply]:
    left = list(verdicts)

    def script(body: dict[str, Any]) -> Reply:
        return 200, left.pop(0) if ASKED in str(body) else GOOD, "stop"

    return script


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("It is true.\nBETTER: A", "It is true.\n**BETTER: B**"), True),
        (("BETTER: A", "BETTER: A"), False),
        (("BETTER: A", "BETTER: NEITHER"), False),
        (("BETTER: B",), False),
        (("Both have merits.",), False),
        (("BETTER: A or B",), False),
        (("BETTER: A", "First BETTER: A, as it says.\nBETTER: A\nNo:\nBETTER: B"), True),
    ],
)
def test_a_correction_must_win_in_both_orders(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    verdicts: tuple[str, ...],
    expected: bool,
) -> None:
    analyst_endpoint.script = _judging(*verdicts)
    here = make_reflection(policy=STRICT)
    reason = "Obviously the town named is not the capital."
    [report_id] = here.queue(flagged(response=WRONG, correction=RIGHT, reason=reason))
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.judged_better) == (RIGHT, expected)
    asked = [str(body["messages"]) for body in analyst_endpoint.requests if ASKED in str(body)]
    assert len(asked) == len(verdicts)
    assert all("Obviously" not in text for text in asked), "the reporter's reason argues for one side"
    assert asked[0].index(RIGHT) < asked[0].index(WRONG)
    assert all(text.index(WRONG) < text.index(RIGHT) for text in asked[1:])


@pytest.mark.parametrize(
    ("analyst", "correction", "policy"),
    [("self", RIGHT, STRICT), ("endpoint", None, STRICT), ("endpoint", RIGHT, None)],
)
def test_nobody_is_asked_where_it_decides_nothing(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    analyst: str,
    correction: str | None,
    policy: Policy | None,
) -> None:
    here = make_reflection(analyst, policy=policy, propose_corrections=False)
    [report_id] = here.queue(flagged(correction=correction))
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.judged_better is None
    assert len(analyst_endpoint.requests) == 1


def test_an_outage_amid_the_judgement_is_tried_again(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda body: (500, "out", "stop") if ASKED in str(body) else (200, GOOD, "stop")
    here = make_reflection(policy=STRICT)
    [report_id] = here.queue(flagged(correction=RIGHT))
    here.step()
    assert here.store.reports.lesson(report_id) is None
    analyst_endpoint.script = _judging("BETTER: A", "BETTER: B")
    here.make_due()
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.judged_better is True


@pytest.mark.parametrize("analyst", ["self", None])
@pytest.mark.parametrize(("second", "expected"), [("BETTER: B", True), ("BETTER: A", False)])
def test_the_judge_is_asked_where_no_other_model_is_the_analyst(
    make_reflection: Callable[..., ReflectionBench],
    analyst_endpoint: ScriptedEndpoint,
    analyst: str | None,
    second: str,
    expected: bool,
) -> None:
    analyst_endpoint.script = _judging("BETTER: A", second)
    judge = EndpointAnalyst(EndpointConfig(url=analyst_endpoint.url, model="the-judge"), timeout_s=5)
    here = make_reflection(analyst, policy=STRICT, judge=judge)
    [report_id] = here.queue(flagged(response=WRONG, correction=RIGHT))
    here.step()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert lesson.judged_better is expected
    asked = [body["model"] for body in analyst_endpoint.requests if ASKED in str(body)]
    assert asked == ["the-judge"] * 2


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (401, 1)])
def test_a_judge_that_fails_holds_no_lesson_up(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint, status: int, tries: int
) -> None:
    analyst_endpoint.script = lambda body: (status, "no", "stop") if ASKED in str(body) else (200, GOOD, "stop")
    judge = EndpointAnalyst(EndpointConfig(url=analyst_endpoint.url, model="the-judge"), timeout_s=5)
    here = make_reflection("self", policy=STRICT, judge=judge)
    [report_id] = here.queue(flagged(response=WRONG, correction=RIGHT))
    for _ in range(tries):
        assert here.store.reports.lesson(report_id) is None
        here.step()
        here.make_due()
    lesson = here.store.reports.lesson(report_id)
    assert lesson is not None
    assert (lesson.correction, lesson.judged_better) == (RIGHT, None)
