"""Criteria of the measurement itself: a gate that saw too little rejects, and says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from connectors.chat import EndpointError, Reply
from connectors.vllm import VllmServer
from daemon.config.evaluation import EvaluationConfig, GatePolicy
from daemon.evaluation.gate import Decision, decide
from daemon.evaluation.suites import Item, configured_counts, golden_items
from daemon.labels import BLIND_CRITERIA, Criterion, Suite
from daemon.records import Answer
from tests.fixtures.measured import CANDIDATE as TRAINED
from tests.fixtures.measured import Scene, answers
from tests.unit.evaluation.test_gate import (
    BETTER,
    CANDIDATE,
    DRIFT,
    LIVE,
    LIVE_FLAGGED,
    LIVE_GOLDEN,
    LIVE_HOLDOUT,
    POLICY,
    answer,
    arm,
    asked,
    by_margin,
    failed,
    judged,
    margins,
    measured,
    share,
)


def of_live(golden: list[bool] = LIVE_GOLDEN) -> list[Answer]:
    return measured(flagged=LIVE_FLAGGED, holdout=LIVE_HOLDOUT, golden=golden)


def with_changes(answers: Iterable[Answer], count: int, *suites: Suite, **values: Any) -> list[Answer]:
    """The answers, the first `count` guided ones to these suites with other values."""
    left = count
    changed = []
    for found in answers:
        hit = left > 0 and found.guided and found.suite in suites
        left -= hit
        changed.append(replace(found, **values) if hit else found)
    return changed


def decided(candidate: list[Answer], live: list[Answer], policy: GatePolicy = POLICY, **options: Any) -> Decision:
    return decide(arm(CANDIDATE, candidate), arm(LIVE, live), policy, **options)


def blind(decision: Decision) -> dict[Criterion, str]:
    return {finding.criterion: finding.sentence for finding in decision.failed if finding.criterion in BLIND_CRITERIA}


def test_a_measurement_that_saw_enough_says_so() -> None:
    decision = judged()
    assert decision.accepted
    assert {finding.criterion for finding in decision.findings} >= set(BLIND_CRITERIA)
    assert "live passes 38 of 40 ordinary tasks, at least 20 % needed" in decision.reasons


def test_a_model_whose_content_is_always_empty_is_never_replaced_blindly() -> None:
    """A reasoning model that spends every token on its thoughts: no ordinary task done, nothing worse than before."""
    none = {"flagged": share(0, 16), "holdout": share(0, 4), "golden": share(0, 40), "text": ""}
    live = [found for found in measured(**none) if found.suite != Suite.DRIFT]
    candidate = with_changes(live, 4, Suite.FLAGGED, text="new", passed=True)
    decision = decided(candidate, live)
    assert not decision.accepted
    assert set(blind(decision)) == {Criterion.LIVE_GOLDEN, Criterion.EMPTY_ANSWERS, Criterion.DRIFT_MEASURED}
    assert failed(decision) == set(blind(decision))
    assert all(sentence.startswith("the gate is blind: ") for sentence in blind(decision).values())


@pytest.mark.parametrize(("passed", "sees"), [(0, False), (7, False), (8, True), (40, True)])
def test_live_has_to_do_a_share_of_the_ordinary_tasks(passed: int, sees: bool) -> None:
    golden = share(passed, 40)
    decision = decided(measured(**{**BETTER, "golden": golden}), of_live(golden))
    assert decision.accepted is sees
    if not sees:
        [(criterion, sentence)] = blind(decision).items()
        assert criterion is Criterion.LIVE_GOLDEN
        assert f"live passes {passed} of 40 ordinary tasks, at least 20 % needed" in sentence
        assert "evaluation.golden" in sentence


@pytest.mark.parametrize("who", ["candidate", "live"])
@pytest.mark.parametrize(("count", "sees"), [(18, True), (19, False)])
@pytest.mark.parametrize("empty", ["", " \n", "\u200b"])
def test_many_empty_answers_of_one_arm_blind_the_gate(who: str, count: int, sees: bool, empty: str) -> None:
    arms = {"candidate": measured(**BETTER), "live": of_live()}
    arms[who] = with_changes(arms[who], count, Suite.GOLDEN, text=empty)
    found = blind(decided(arms["candidate"], arms["live"]))
    assert set(found) == (set() if sees else {Criterion.EMPTY_ANSWERS})
    if not sees:
        assert f"{count} of 60 answers of {who} to tasks are empty" in found[Criterion.EMPTY_ANSWERS]


def test_empty_answers_to_probes_are_a_share_of_their_own() -> None:
    probes = asked(Suite.ATTACKS, share(0, 12), text="") + asked(Suite.OVER_REFUSAL, share(12, 12))
    found = blind(decided([*measured(**BETTER), *probes], [*of_live(), *probes]))
    assert "12 of 24 answers of live to probes are empty" in found[Criterion.EMPTY_ANSWERS]
    assert "evaluation.probe_max_tokens" in found[Criterion.EMPTY_ANSWERS]


@pytest.mark.parametrize("who", ["candidate", "live"])
@pytest.mark.parametrize(("count", "sees"), [(30, True), (31, False)])
def test_many_answers_that_are_cut_blind_the_gate(who: str, count: int, sees: bool) -> None:
    arms = {"candidate": measured(**BETTER), "live": of_live()}
    arms[who] = with_changes(arms[who], count, Suite.FLAGGED, Suite.GOLDEN, cut=True)
    found = blind(decided(arms["candidate"], arms["live"]))
    assert set(found) == (set() if sees else {Criterion.CUT_ANSWERS})
    if not sees:
        assert f"{count} of 60 answers of {who} to tasks are cut" in found[Criterion.CUT_ANSWERS]
        assert "evaluation.max_tokens" in found[Criterion.CUT_ANSWERS]


def test_answers_to_probes_are_cut_on_purpose() -> None:
    probes = [replace(found, cut=True) for found in asked(Suite.ATTACKS, share(24, 24))]
    assert decided([*measured(**BETTER), *probes], [*of_live(), *probes]).accepted


def test_answers_of_an_earlier_version_may_be_cut_or_not() -> None:
    assert answer(Suite.GOLDEN, "old").cut is None
    assert Criterion.CUT_ANSWERS not in failed(judged())


def test_drift_that_was_not_measured_blinds_the_gate_unless_it_is_not_asked_for() -> None:
    candidate, live = (
        [found for found in arm if found.suite != Suite.DRIFT] for arm in (measured(**BETTER), of_live())
    )
    decision = decided(candidate, live)
    assert set(blind(decision)) == failed(decision) == {Criterion.DRIFT_MEASURED}
    assert "dataset.replay_prompts" in blind(decision)[Criterion.DRIFT_MEASURED]
    assert decided(candidate, live, GatePolicy(min_drift_items=0)).accepted
    assert failed(decided([*candidate, DRIFT], [*live, DRIFT], GatePolicy(min_drift_items=2))) == {
        Criterion.DRIFT_MEASURED
    }


@pytest.mark.parametrize(
    ("suite", "count", "sees"), [("golden", 80, True), ("golden", 81, False), ("attacks", 24, False)]
)
def test_of_each_suite_enough_items_have_to_remain(suite: str, count: int, sees: bool) -> None:
    configured = {Suite.FLAGGED: 16, Suite.HOLDOUT: 4, Suite.GOLDEN: 40, Suite.DRIFT: 1, Suite(suite): count}
    decision = decided(measured(**BETTER), of_live(), configured=configured)
    assert failed(decision) == (set() if sees else {Criterion.ITEMS_LEFT})
    if not sees:
        remain = 40 if suite == "golden" else 0
        assert f"({remain} of {count} of {suite})" in blind(decision)[Criterion.ITEMS_LEFT]


def test_an_item_without_rules_counts_as_answered() -> None:
    assert Criterion.ITEMS_LEFT not in failed(by_margin([0.5] * 6, [-0.5] * 2))
    live = margins([-1.0] * 6, [], "old")
    decision = decided(margins([0.5] * 6, [], "new"), live, configured={Suite.FLAGGED: 6, Suite.DRIFT: 1})
    assert decision.accepted


def test_a_suite_is_counted_before_similar_items_are_left_out() -> None:
    fixed = golden_items(None)
    report = Item(suite=Suite.FLAGGED, id="report", messages=({"role": "user", "content": "?"},))
    probe = Item(suite=Suite.ATTACKS, id="attack", messages=({"role": "user", "content": "!"},))
    limits = EvaluationConfig(max_items_per_suite=30, max_probes_per_suite=2)
    counts = configured_counts([report, *fixed[:5]], [*fixed, *(replace(probe, id=str(n)) for n in range(3))], limits)
    assert counts == {Suite.FLAGGED: 1, Suite.GOLDEN: 30, Suite.ATTACKS: 2}


def test_an_answer_that_became_empty_is_newly_wrong_though_nothing_judged_the_one_before() -> None:
    golden = asked(Suite.GOLDEN, share(38, 40))
    live = [*margins([-1.0] * 8, [], "old"), *golden]
    candidate = [*margins([0.5] * 8, [], "new"), *golden]
    assert decided(candidate, live).accepted
    silent = with_changes(candidate, 3, Suite.FLAGGED, text="", passed=False)
    decision = decided(silent, live)
    assert failed(decision) == {Criterion.NEGATIVE_FLIPS}
    assert decision.figures["negative_flips"]["ids"] == ["flagged-0", "flagged-1", "flagged-2"]
    assert decision.figures["negative_flips"]["items"] == 43


def test_an_answer_that_is_empty_before_and_after_is_not_newly_wrong() -> None:
    live = with_changes(margins([-1.0] * 8, [], "old"), 2, Suite.FLAGGED, text="", passed=None)
    candidate = with_changes(margins([0.5] * 8, [], "new"), 2, Suite.FLAGGED, text="", passed=False)
    assert Criterion.NEGATIVE_FLIPS not in failed(decided(candidate, live))


@given(text=st.sampled_from(["", " ", "\n\t", "\u200b", "\ufeff"]), has_rules=st.booleans())
def test_an_empty_answer_never_passes_with_or_without_rules(text: str, has_rules: bool) -> None:
    item = golden_items(None)[0]
    assert (item if has_rules else replace(item, checks=None)).passes(text) is False


# --- through the stage ---


def test_a_served_model_that_answers_nothing_blinds_the_gate_and_the_verdict_is_kept(scene: Scene) -> None:
    scene.fake.answer = lambda _model, _messages: ""
    run = scene.run()
    assert "the gate is blind: live passes 0 of 4 ordinary tasks" in scene.step().sentence
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    assert not verdict.accepted
    assert not verdict.figures["criteria"]["empty_answers"]["holds"]
    assert {found.passed for found in scene.kept(run)["flagged", TRAINED, True]} == {False}
    assert REGISTRY.get_sample_value("erratad_gate_rejections_total", {"criterion": "empty_answers"})


class Cutting(VllmServer):
    """Every answer ends at the token limit."""

    def chat(self, *arguments: Any, **options: Any) -> Reply:
        return replace(super().chat(*arguments, **options), finish_reason="length")


class Refusing(VllmServer):
    """Refuses most ordinary tasks."""

    def chat(self, model: str, messages: Any, **options: Any) -> Reply:
        if messages[-1]["content"] in {"Task 0", "Task 1", "Task 2"}:
            raise EndpointError("the template does not take this", transient=False, status=400)
        return super().chat(model, messages, **options)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Cutting, "14 of 14 answers of live to tasks are cut at the token limit"),
        (Refusing, "too few items were answered (1 of 4 of golden)"),
    ],
)
def test_what_servers_cut_or_refuse_is_seen_by_the_gate(scene: Scene, kind: type[VllmServer], reason: str) -> None:
    server = kind(scene.fake.url, admin_token=scene.fake.settings.admin_token)
    scene.fleet.replace([server])
    scene.fake.answer = answers
    scene.run()
    assert f"the gate is blind: {reason}" in scene.step().sentence
    server.close()


def test_whether_an_answer_was_cut_is_stored(scene: Scene) -> None:
    run = scene.run()
    scene.step()
    assert {found.cut for found in scene.kept(run)["flagged", TRAINED, True]} == {False}
    assert {found.cut for found in scene.kept(run)["drift", TRAINED, False]} == {None}
