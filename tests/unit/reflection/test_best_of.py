"""Of several analyses, the most helpful one is kept: after it, the served model prefers the correction most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import pytest

from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from daemon.config.reflection import ReflectionConfig
from daemon.reflection.best_of import REQUEST, best, served_model_scorer
from daemon.store import Store
from tests.fakes.fleet import OneServer
from tests.fakes.vllm import FakeVllm
from tests.fixtures.config import flagged
from tests.fixtures.reflection import GOOD, USELESS, ReflectionBench, Reply, ScriptedEndpoint

HELPFUL = "This response is wrong because the capital is Canberra, and a good response says so without any doubt."
REJECTED = "I'm sorry, but I can't help with that."


def _prefers(words: str) -> Callable[[Sequence[Mapping[str, Any]], str], float]:
    """A scorer that prefers the correction if the analysis contains these words."""

    def score(messages: Sequence[Mapping[str, Any]], answer: str) -> float:
        told = words in messages[-1]["content"]
        return (2.0 if told else -2.0) if answer == "Canberra." else 0.0

    return score


def _cut_off(*_: object) -> float:
    raise EndpointError("connection refused", transient=True)


def test_the_analysis_that_helps_most_is_kept() -> None:
    assert best([GOOD, HELPFUL], flagged(), "Canberra.", _prefers("Canberra")) == HELPFUL
    assert best([GOOD, HELPFUL], flagged(), "Canberra.", _prefers("not the capital")) == GOOD


def test_of_equal_ones_and_where_nothing_can_be_scored_the_first_is_kept() -> None:
    assert best([GOOD, HELPFUL], flagged(), "Canberra.", lambda *_: 0.0) == GOOD
    assert best([HELPFUL, GOOD], flagged(), "Canberra.", _cut_off) == HELPFUL


def test_the_served_model_judges_after_its_flagged_answer(
    sqlite_store: Store, fake_vllm: FakeVllm, make_client: Callable[[str], VllmServer]
) -> None:
    asked: list[Sequence[Mapping[str, Any]]] = []

    def score(messages: Sequence[Mapping[str, Any]], answer: str) -> float:
        asked.append(messages)
        return served_model_scorer(OneServer(make_client(fake_vllm.url)), sqlite_store.adapters, base_name="base")(
            messages, answer
        )

    message = flagged()
    fake_vllm.logprob = lambda _model, _token: -0.5
    assert best([GOOD, HELPFUL], message, "Canberra.", score) == GOOD
    assert {len(messages) for messages in asked} == {len(message.messages) + 2}
    assert asked[0][-2] == {"role": "assistant", "content": message.response}
    assert asked[0][-1] == {"role": "user", "content": f"{GOOD}\n\n{REQUEST}"}


@pytest.fixture
def three(make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint) -> ReflectionBench:
    """Three analyses per attempt; the checks reject one."""
    texts = cycle([REJECTED, GOOD, HELPFUL])

    def script(_body: dict[str, Any]) -> Reply:
        return 200, next(texts), "stop"

    analyst_endpoint.script = script
    return make_reflection(score=_prefers("Canberra"), candidates=3, concurrency=1, propose_corrections=False)


def test_a_lesson_holds_the_best_of_its_candidates(three: ReflectionBench, analyst_endpoint: ScriptedEndpoint) -> None:
    corrected, uncorrected = three.queue(flagged(correction="Canberra."), flagged())
    three.step()
    three.step()
    lessons = {one: three.store.reports.lesson(one) for one in (corrected, uncorrected)}
    assert {one: lesson.analysis for one, lesson in lessons.items() if lesson} == {
        corrected: HELPFUL,
        uncorrected: GOOD,
    }
    assert len(analyst_endpoint.requests) == 6


def test_a_report_whose_candidates_all_fail_is_tried_again(
    make_reflection: Callable[..., ReflectionBench], analyst_endpoint: ScriptedEndpoint
) -> None:
    analyst_endpoint.script = lambda _body: (200, USELESS, "stop")
    here = make_reflection(candidates=2)
    [report_id] = here.queue(flagged(correction="Canberra."))
    assert "1 to retry" in here.step().sentence
    assert here.store.reports.lesson(report_id) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"candidates": 2, "temperature": 0, "lease_s": 600}, "need a temperature above 0"),
        ({"candidates": 4, "lease_s": 840}, "must exceed 14 times request_timeout_s"),
        ({"lease_s": 180}, "must exceed 3 times request_timeout_s"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReflectionConfig.model_validate(settings)


def test_an_empty_flagged_answer_is_not_scored() -> None:
    def score(*_: object) -> float:
        raise AssertionError("asked")

    assert best(["first", "second"], flagged(response=""), "right", score) == "first"
