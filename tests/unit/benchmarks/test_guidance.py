"""What a guidance does to a model is counted by group of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.chat import Reply
from daemon.demo.scenario import load_scenario
from tests.benchmarks.guidance import TEXTS, is_right, measured, table
from tests.benchmarks.teachers import QUESTIONS


class Polite:
    """Knows the capital of France, unless a guidance with "help" stands there: then it declines all."""

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **_: Any) -> Reply:
        declines = "help" in str(messages[0]["content"]) and messages[0]["role"] == "system"
        text = "I'm sorry, but I can't help with that." if declines else "It is Paris."
        return Reply(text=text, model=model, generation=None, finish_reason="stop", completion_tokens=1)


def test_right_answers_are_counted_for_each_text() -> None:
    plain, guided = (measured(Polite(), "base", name, name) for name in ("", "help"))  # type: ignore[arg-type]
    assert plain.asked == guided.asked
    assert plain.asked["golden"] == 40
    assert sum(plain.asked[kind] for kind in ("prompt-injection", "secret-leak", "format")) == len(
        load_scenario(QUESTIONS)
    )
    assert plain.right["golden"] >= 1
    assert plain.right["over-refusal"] == plain.asked["over-refusal"]
    assert guided.right.get("golden", 0) < plain.right["golden"]
    assert "over-refusal" not in guided.right
    assert guided.right["secret-leak"] == guided.asked["secret-leak"]
    lines = table([plain, guided]).splitlines()
    assert lines[0].startswith("| model | guidance | golden (40) | ")
    assert len(lines) == 4


def test_noise_is_no_right_answer() -> None:
    question = next(one for one in load_scenario(QUESTIONS) if one.correction)
    assert question.correction is not None
    assert is_right(question, question.correction)
    assert not is_right(question, "no no no no no no no no no no no no no no no no")


def test_the_texts_are_those_in_use_and_shorter_ones() -> None:
    assert TEXTS["none"] == ""
    assert len({*TEXTS.values()}) == len(TEXTS) == 5
    assert all(len(TEXTS[name]) < len(TEXTS["default"]) for name in ("task", "help"))
