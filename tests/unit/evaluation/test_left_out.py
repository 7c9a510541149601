"""Items that cannot be rendered, are too long, or are refused: left out with their reasons, and never in silence."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException

from daemon.chat.readings import Limit, Readings
from daemon.evaluation.left_out import readable
from daemon.evaluation.suites import Item
from daemon.labels import LeftOut, Suite
from daemon.left_out import LeftOutBy
from daemon.records import RunState, Verdict
from tests.fixtures.life import life
from tests.fixtures.measured import GOLDEN, Scene
from tests.fixtures.training import ReaderByWords


def _verdict(scene: Scene, run_id: int) -> Verdict:
    verdict = scene.store.runs.verdict(run_id)
    assert verdict is not None
    return verdict


def test_what_the_template_refuses_is_not_asked_and_stands_in_verdict_progress_and_account(scene: Scene) -> None:
    run = scene.run()
    [first, *_] = (item.report_id for item in scene.store.runs.items(run.id))
    scene.reader = ReaderByWords({scene.store.reports.get(first).prompt_text: LeftOut.TEMPLATE_REFUSES})

    scene.step()

    kept = scene.kept(run)
    assert first not in {answer.item_id for found in kept.values() for answer in found}
    verdict = _verdict(scene, run.id)
    assert [*verdict.figures["left_out"].values()] == [{"template_refuses": 1}]
    assert scene.store.runs.get(run.id).progress["evaluation"]["left_out"] == verdict.figures["left_out"]
    [account] = scene.store.left_out.of_report(first)
    assert (account.stage, account.reason) == (LeftOutBy.EVALUATION, LeftOut.TEMPLATE_REFUSES)


def test_what_servers_refuse_is_counted_and_its_words_are_kept(scene: Scene) -> None:
    run = scene.run()
    [first, *_] = (item.report_id for item in scene.store.runs.items(run.id))
    asked = scene.store.reports.get(first).prompt_text
    before = scene.fake.answer

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        if messages[-1]["content"] == asked:
            raise HTTPException(400, {"error": {"message": "too long for this model"}})
        return before(model, messages)

    scene.fake.answer = answer
    scene.step()

    assert sum(map(sum, (one.values() for one in _verdict(scene, run.id).figures["left_out"].values()))) == 1
    [account] = scene.store.left_out.of_report(first)
    assert account.reason is LeftOut.SERVER_REFUSES
    assert "HTTP 400" in account.detail


def test_too_few_readable_items_of_a_suite_are_a_blind_measurement(scene: Scene) -> None:
    run = scene.run()
    scene.reader = ReaderByWords({f"Task {number}": LeftOut.TEMPLATE_REFUSES for number in range(len(GOLDEN) - 1)})

    step = scene.step()

    assert scene.store.runs.get(run.id).state is RunState.REJECTED
    assert "the gate is blind: too few items were answered (1 of 4 of golden)" in step.sentence
    assert _verdict(scene, run.id).figures["left_out"] == {"golden": {"template_refuses": 3}}


def test_items_longer_than_the_served_context_are_not_sent(scene: Scene) -> None:
    run = scene.run()
    scene.max_model_len = 4  # "Task 1" fits, with the guidance it does not
    scene.step()
    assert scene.fake.requests == []
    assert _verdict(scene, run.id).figures["left_out"]["golden"] == {"too_long_to_serve": 4}


def test_a_drift_text_is_read_as_the_models_answer_and_without_guidance() -> None:
    reader = ReaderByWords()
    prompt = ({"role": "user", "content": "Hello"},)
    drift = Item(suite=Suite.DRIFT, id="a", messages=prompt, good="<think>a</think>Hi")
    golden = Item(suite=Suite.GOLDEN, id="b", messages=prompt)
    with Readings(reader).of_run(1, life()) as session:
        kept, left_out = readable(
            [drift, golden], session, limit=Limit(9, LeftOut.TOO_LONG_TO_SERVE), guidance="Answer well."
        )
    assert (kept, left_out) == ([drift, golden], [])
    assert [(one.completion, one.by_model, len(one.messages)) for one in reader.asked] == [
        ("<think>a</think>Hi", True, 1),
        (None, False, 1),
        (None, False, 2),
    ]
