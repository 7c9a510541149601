"""Whether the mistakes of a run's reports were there and are gone, measured over the fake server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fastapi import HTTPException

from daemon.records import ReportState, Run
from tests.fixtures.measured import BASE, CANDIDATE, GUIDANCE, Scene
from tests.fixtures.stores import mark

ANSWERS = 4
Said = Callable[[str, int], str]
"""(model, seed) -> answer to a report; seed 0: greedy."""


def _play(scene: Scene, said: Said, **report: Any) -> Run:
    """Measure a run whose reports are answered so."""
    scene.config["answers_per_report"] = ANSWERS

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        if messages[-1]["content"].startswith("Task"):
            return f"done by {model}"
        guided = messages[0] == {"role": "system", "content": GUIDANCE}
        return said(model, int(scene.fake.requests[-1].get("seed") or 0)) if guided else "wrong"

    scene.fake.answer = answer
    run = scene.run(**report)
    scene.step()
    return run


def _outcomes(scene: Scene, run: Run) -> set[tuple[ReportState | None, str]]:
    return {(one.outcome, one.counts) for one in scene.store.retests.of_run(run.id)}


def _samples(scene: Scene, run: Run) -> Mapping[str, int]:
    answers = [one for one in scene.store.runs.answers(run.id) if one.sample]
    assert all(one.guided and one.suite in {"flagged", "holdout"} for one in answers)
    return {arm: sum(one.arm == arm for one in answers) for arm in (BASE, CANDIDATE)}


@pytest.mark.parametrize(
    ("said", "outcome", "counts", "samples"),
    [
        pytest.param(
            lambda model, _seed: "right" if model == CANDIDATE else "wrong",
            ReportState.RESOLVED, "0 of 1 good before, 4 of 4 after", {BASE: 0, CANDIDATE: 30},
            id="fixed",
        ),
        pytest.param(
            lambda _model, _seed: "wrong",
            ReportState.RECURRING, "0 of 1 good before, 0 of 1 after", {BASE: 0, CANDIDATE: 0},
            id="not fixed: no sample is asked for",
        ),
        pytest.param(
            lambda model, seed: "right" if model == CANDIDATE and seed != 2 else "wrong",
            ReportState.IMPROVED, "0 of 4 good before, 3 of 4 after", {BASE: 30, CANDIDATE: 30},
            id="improved",
        ),
        pytest.param(
            lambda _model, _seed: "right",
            ReportState.NOT_REPRODUCED, "4 of 4 good before, 1 of 1 after", {BASE: 30, CANDIDATE: 0},
            id="not reproduced",
        ),
        pytest.param(
            lambda model, seed: "right" if model == CANDIDATE or seed != 3 else "wrong",
            ReportState.RESOLVED, "3 of 4 good before, 4 of 4 after", {BASE: 30, CANDIDATE: 30},
            id="fixed, though live errs only at times",
        ),
        pytest.param(
            lambda model, _seed: "" if model == CANDIDATE else "wrong",
            ReportState.RECURRING, "0 of 1 good before, 0 of 1 after", {BASE: 0, CANDIDATE: 0},
            id="an empty answer fixes nothing",
        ),
    ],
)  # fmt: skip
def test_a_report_is_fixed_only_if_live_errs_and_the_candidate_never_does(
    scene: Scene, said: Said, outcome: ReportState, counts: str, samples: Mapping[str, int]
) -> None:
    run = _play(scene, said)
    assert _outcomes(scene, run) == {(outcome, counts)}
    assert _samples(scene, run) == samples


def test_an_adapter_that_changes_nothing_fixes_nothing(scene: Scene) -> None:
    """Both arms draw from the same seeds, so equal weights give equal answers, good or bad."""
    run = _play(scene, lambda _model, seed: "right" if seed % 2 == 0 else "wrong")
    assert {one.outcome for one in scene.store.retests.of_run(run.id)} == {ReportState.RECURRING}
    counts = scene.store.reports.counts()
    assert counts[ReportState.RESOLVED] == counts[ReportState.IMPROVED] == 0


def test_the_verdict_counts_what_was_held_out_and_what_was_trained_apart(scene: Scene) -> None:
    run = _play(scene, lambda model, _seed: "right" if model == CANDIDATE else "wrong")
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    none = {"before": 0, "improved": 0, "not_reproduced": 0, "recurring": 0}
    assert verdict.figures["held_out"] == {"items": 2, "fixed": 2, "after": 2, **none}
    assert verdict.figures["trained"] == {"items": 8, "fixed": 8, "after": 8, **none}


def test_what_live_does_right_leaves_the_training_set(scene: Scene) -> None:
    _play(scene, lambda _model, _seed: "right")
    assert scene.store.reports.counts()[ReportState.NOT_REPRODUCED] == 10
    assert scene.store.reports.trainable(limit=20) == []


def test_a_report_that_is_fixed_already_costs_no_further_answers(scene: Scene) -> None:
    scene.config["answers_per_report"] = ANSWERS
    run = scene.run()
    ids = [item.report_id for item in scene.store.runs.items(run.id)]
    mark(scene.store, ids, ReportState.RESOLVED, generation=0)
    scene.fake.answer = lambda _model, _messages: "right"
    scene.step()
    assert _samples(scene, run) == {BASE: 0, CANDIDATE: 0}
    assert _outcomes(scene, run) == {(None, "1 of 1 good before, 1 of 1 after")}
    assert scene.store.reports.counts()[ReportState.RESOLVED] == 10


def test_a_report_without_rules_or_judge_gets_no_outcome(scene: Scene) -> None:
    run = _play(scene, lambda model, _seed: "right" if model == CANDIDATE else "wrong", checks=None)
    assert _outcomes(scene, run) == set()
    assert _samples(scene, run) == {BASE: 0, CANDIDATE: 0}


def test_further_answers_are_not_asked_for_again_after_an_outage(scene: Scene) -> None:
    asked: list[int] = []

    def said(model: str, seed: int) -> str:
        if seed:
            asked.append(seed)
            if len(asked) == 7:
                raise HTTPException(503)
        return "right" if model == CANDIDATE else "wrong"

    scene.config["concurrency"] = 1
    run = _play(scene, said)
    kept = sum(_samples(scene, run).values())
    assert 0 < kept < 30
    scene.step()
    assert _samples(scene, run) == {BASE: 0, CANDIDATE: 30}
    assert len(asked) == 31
