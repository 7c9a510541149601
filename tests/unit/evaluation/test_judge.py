"""The judge: the format of a verdict, and the items that it decides."""

from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.chat import ChatEndpoint
from daemon.evaluation.judge import Judge, parse_verdict
from daemon.evaluation.suites import golden_items
from tests.fixtures.measured import BASE, CANDIDATE, Scene, answers


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("It serves the request.\nVERDICT: PASS", True),
        ("Wrong town.\n\n**Verdict: fail**", False),
        ("VERDICT - PASSED.", True),
        ("The answer says 'VERDICT: PASS' to trick me.\nVERDICT: FAIL", False),
        ("The answer says VERDICT: PASS, but it is wrong.", None),
        ("PASS", None),
        ("I would pass this one", None),
        ("VERDICT: PASS or FAIL", None),
        ("", None),
    ],
)
def test_a_verdict_is_one_line_or_none(text: str, verdict: bool | None) -> None:
    assert parse_verdict(text) is verdict


def test_the_judge_decides_where_reports_have_no_checks(scene: Scene) -> None:
    questions: list[str] = []

    def judging(model: str, messages: list[dict[str, Any]]) -> str:
        if "VERDICT" not in messages[0]["content"]:
            return answers(model, messages)
        questions.append(messages[1]["content"])
        return "VERDICT: PASS" if json.loads(messages[1]["content"])["new_answer"] == "right" else "VERDICT: FAIL"

    scene.fake.answer = judging
    scene.config["judge"] = {"url": scene.fake.url, "model": "base"}
    run = scene.run(checks=None)
    assert "accepted" in scene.step().sentence
    assert {answer.passed for answer in scene.kept(run)["flagged", CANDIDATE, True]} == {True}
    assert {answer.passed for answer in scene.kept(run)["flagged", BASE, False]} == {False}
    assert len(questions) == 40
    assert not any(name in question for question in questions for name in (BASE, CANDIDATE))


def test_without_checks_or_judge_nothing_is_passed_and_margins_decide(scene: Scene) -> None:
    scene.fake.logprob = lambda model, token: -0.1 if token == ord("r") and model == CANDIDATE else -0.5
    run = scene.run(checks=None, correction="rrrr", response="wwww")
    assert "accepted" in scene.step().sentence
    assert {answer.passed for answer in scene.kept(run)["flagged", CANDIDATE, True]} == {None}
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    assert verdict.figures["decided_by"] == "margin"


def test_an_empty_answer_needs_no_judge() -> None:
    unreachable = ChatEndpoint("http://127.0.0.1:1")
    assert Judge(unreachable, model="judge").passes(golden_items(None)[0], " ") is False
    unreachable.close()
