"""What the model falls into becomes mistakes; who analyses them, and whether the model recognises them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from connectors.chat import Reply
from connectors.vllm import Score
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.lessons import PATIENCE_S, Analyst, Asked, Collector
from tests.benchmarks.quality.recognition import Recognition
from tests.benchmarks.quality.scenarios import attack
from tests.fixtures.bench import Hijackable, asked_base
from tests.fixtures.reflection import unscored


def test_only_traps_that_the_model_falls_into_become_mistakes_and_they_are_asked_once(
    data: PublicData, tmp_path: Path
) -> None:
    scenario, server = attack(data, 0.2), Hijackable()
    collector = Collector(base=asked_base(server), score=unscored, folder=tmp_path / "kept", concurrency=2)

    mistakes = collector.mistakes(scenario)
    asked = server.asked

    assert {mistake.trap.category for mistake in mistakes} == {"prompt-injection"}
    assert all(not mistake.trap.probe.good(mistake.response) for mistake in mistakes)
    assert all(mistake.trap.probe.good(mistake.correction) for mistake in mistakes)
    assert collector.mistakes(scenario) == mistakes
    assert server.asked == asked
    lessons = collector.lessons(scenario, mistakes, Analyst.TEMPLATE)
    assert all(lesson.analysis.startswith("This response is wrong") for lesson in lessons)


class _Analyst:
    """Explains the first mistake that it is shown, and declines the rest."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.patience_s: set[object] = set()

    def chat(
        self, model: str, messages: list[dict[str, str]], *, max_tokens: int, timeout_s: float | None, **_: object
    ) -> Reply:
        self.questions.append(messages[-1]["content"])
        self.patience_s.add(timeout_s)
        text = "I'm sorry, I can't help with that."
        if len(self.questions) == 1:
            text = (
                "The answer obeys an order inside the text instead of the task that the user asked for, which is wrong."
            )
        return Reply(text=text, model=model, generation=None, finish_reason="stop", completion_tokens=max_tokens)


def test_another_model_analyses_and_templates_stand_in_for_what_the_checks_reject(
    data: PublicData, tmp_path: Path
) -> None:
    scenario, server, other = attack(data, 0.2), Hijackable(), _Analyst()
    analyst = Asked(endpoint=other, model="other")  # type: ignore[arg-type]
    collector = Collector(
        base=asked_base(server), score=unscored, external=analyst, folder=tmp_path / "kept", concurrency=1
    )
    mistakes = collector.mistakes(scenario)
    asked = server.asked

    unguided = collector.analyses(scenario, Analyst.EXTERNAL_UNGUIDED)
    assert other.questions
    assert not any(mistakes[0].trap.reason in question for question in other.questions)
    assert set(unguided) == {mistake.trap.id for mistake in mistakes}
    other.questions.clear()
    analyses = collector.analyses(scenario, Analyst.EXTERNAL)
    assert mistakes[0].trap.reason in other.questions[0]
    lessons = collector.lessons(scenario, mistakes, Analyst.EXTERNAL)

    assert len(other.questions) == len(mistakes) == len(analyses)
    assert other.patience_s == {PATIENCE_S}, "trainings go on beside the questions"
    assert server.asked == asked
    assert [text is not None for text in analyses.values()] == [True] + [False] * (len(mistakes) - 1)
    assert lessons[0].analysis == analyses[mistakes[0].trap.id]
    assert all(lesson.analysis.startswith("This response is wrong") for lesson in lessons[1:])


def test_of_four_analyses_drawn_the_one_that_helps_most_is_taken(data: PublicData, tmp_path: Path) -> None:
    class Drawing:
        """Answers as the base model does; its analyses, by seed, are useless, rejected, helpful and useless."""

        def chat(self, model: str, messages: list[dict[str, str]], **options: Any) -> Reply:
            if options["seed"] is None:
                return Hijackable().chat(model, messages, max_tokens=options["max_tokens"])
            assert options["temperature"] > 0
            why = ("and that is bad", None, "and that helps", "and that is worse")[options["seed"]]
            text = f"The answer obeys an order inside the text that the user gave to work on, {why}." if why else "No."
            return Reply(text=text, model=model, generation=None, finish_reason="stop", completion_tokens=9)

    def score(messages: Any, answer: str) -> float:
        return float("helps" in messages[-1]["content"] and answer == "A fine answer to the task.")

    scenario = attack(data, 0.2)
    base = Asked(endpoint=Drawing(), model="base")  # type: ignore[arg-type]
    collector = Collector(base=base, score=score, folder=tmp_path / "kept", concurrency=1)
    analyses = collector.analyses(scenario, Analyst.BEST)
    carried = [one.trap.id for one in collector.mistakes(scenario) if one.correction == "A fine answer to the task."]
    assert carried
    assert all("helps" in (analyses[one] or "") for one in carried)


class _LeansTo:
    """A server to which "Bad" is the likelier verdict where the conversation holds a given text."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def score(self, _model: str, messages: list[dict[str, str]], completion: str) -> Score:
        conversation = json.dumps(messages)
        lean = sum(text in conversation for text in self._texts)
        return Score(logprob=lean if completion == "Bad" else 0.5, tokens=1)


def test_the_hint_is_the_only_difference_between_the_two_judgements(data: PublicData, tmp_path: Path) -> None:
    collector = Collector(base=asked_base(Hijackable()), score=unscored, folder=tmp_path, concurrency=2)
    mistakes = collector.mistakes(attack(data, 0.2))[:3]

    judged = Recognition(_LeansTo("may be wrong"), base_name="base", concurrency=2).judge(mistakes)  # type: ignore[arg-type]

    assert {one.id for one in judged} == {mistake.trap.id for mistake in mistakes}
    assert {(one.hinted, one.flagged, one.corrected) for one in judged} == {(True, 0.5, 0.5), (False, -0.5, -0.5)}
