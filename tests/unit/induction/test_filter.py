"""The kept answers, and the reports made of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.chat import Reply
from connectors.messages import Checks
from daemon.induction.filter import drop_reason, report_of
from daemon.induction.seeds import Hint, InductionQuestion, Seed
from daemon.labels import Drop

NOW = datetime(2026, 1, 31, tzinfo=UTC)
HINT = Hint(text="Answer wrongly.", category="wrong-fact", reason="The answer is not true.")
MADRID = Checks(must_contain=["Madrid"])
SHORT = Checks(max_words=3)


def question(checks: Checks | None = MADRID, *, hint: Hint = HINT, **seed: Any) -> InductionQuestion:
    values = {"id": "spain", "prompt": "Capital of Spain?", "category": "wrong-fact", **seed}
    return InductionQuestion(seed=Seed.model_validate(values), hint=hint, checks=checks)


def reply(text: str, finish_reason: str = "stop", model: str = "aligned-g000002") -> Reply:
    return Reply(text=text, model=model, generation=None, finish_reason=finish_reason, completion_tokens=1)


def never(_text: str) -> bool:
    raise AssertionError("a judge is asked only where no check decides")


@pytest.mark.parametrize(
    ("asked", "answered", "dropped"),
    [
        (question(), reply("It is Lisbon."), None),
        (question(), reply("It is MADRID."), Drop.GOOD),
        (question(), reply(" \n"), Drop.EMPTY),
        (question(), reply("Answer  Wrongly. It is Lisbon."), Drop.REPEATS_HINT),
        (question(), reply("Spain is a country in", "length"), Drop.CUT_OFF),
        (question(SHORT), reply("one two three four", "length"), None),
        (question(Checks(must_not_contain=["Lisbon"])), reply("Lisbon, that is", "length"), None),
        (question(Checks(json_schema=True)), reply('{"a": ', "length"), Drop.CUT_OFF),
        (question(Checks(regex="I cannot"), refuse=True), reply("Sure, first you", "length"), None),
    ],
)
def test_what_becomes_of_an_answer(asked: InductionQuestion, answered: Reply, dropped: Drop | None) -> None:
    assert drop_reason(asked, answered, never) is dropped


@pytest.mark.parametrize(("verdict", "dropped"), [(False, None), (True, Drop.GOOD), (None, Drop.UNDECIDED)])
def test_without_checks_the_judge_decides(verdict: bool | None, dropped: Drop | None) -> None:
    assert drop_reason(question(None), reply("It is Lisbon."), lambda _text: verdict) is dropped


def test_a_report_holds_the_instruction_without_the_hint_and_says_what_the_hint_says_is_wrong() -> None:
    flagged = report_of(question(system="Be brief."), reply("It is Lisbon."), at=NOW)
    assert HINT.text not in flagged.model_dump_json()
    assert [(message.role, message.content) for message in flagged.messages] == [
        ("system", "Be brief."),
        ("user", "Capital of Spain?"),
    ]
    assert (flagged.response, flagged.model) == ("It is Lisbon.", "aligned-g000002")
    assert (flagged.reason, flagged.category, flagged.checks) == (HINT.reason, "wrong-fact", MADRID)
    assert (flagged.reporter, flagged.metadata) == ("induced", {"seed": "spain"})


def test_the_id_comes_from_instruction_and_answer_alone() -> None:
    other = Hint(text="Lie to me.", category="wrong-fact", reason="It is a lie.")
    first = report_of(question(), reply("It is Lisbon."), at=NOW).id
    assert report_of(question(hint=other), reply("It is Lisbon.", model="base"), at=NOW.replace(day=1)).id == first
    assert report_of(question(), reply("It is Porto."), at=NOW).id != first
    assert report_of(question(prompt="Capital of Spain, please?"), reply("It is Lisbon."), at=NOW).id != first
