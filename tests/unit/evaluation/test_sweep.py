"""The strength sweep: one training, several strengths, and the weakest that passes goes live."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.messages import EventType
from daemon.artifacts.adapter import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, Lineage, Manifest
from daemon.artifacts.files import sha256_file
from daemon.operations.views import generation_view
from daemon.records import Adapter, AdapterState, Run, RunState
from daemon.store.runs import strengths_of
from tests.fixtures.measured import BASE, CANDIDATE, Scene
from tests.fixtures.stores import waiting_events

AT_75, AT_50 = f"{CANDIDATE}-s75", f"{CANDIDATE}-s50"
SWEEP = (1.0, 0.75, 0.5)


@pytest.fixture
def sweep(scene: Scene) -> Scene:
    scene.strengths = SWEEP
    return scene


def _run(scene: Scene) -> Run:
    """A run whose candidate has a folder as the trainer writes it."""
    run = scene.run()
    folder = Path(scene.store.adapters.get(run.generation).path or "")
    (folder / CONFIG_FILE).write_text(json.dumps({"lora_alpha": 32}))
    (folder / WEIGHTS_FILE).write_bytes(b"weights")
    manifest = Manifest(
        name=CANDIDATE,
        generation=run.generation,
        run_id=run.id,
        base_fingerprint="b" * 64,
        rank=4,
        target_modules=("q_proj",),
        files={name: sha256_file(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
        lineage=Lineage(
            report_ids=("r",),
            dataset_sha256="d" * 64,
            recipe="sft",
            seed=1,
            steps=1,
            kl_to_base=0.4,
            kl_by_strength={"1.0": 0.4, "0.75": 0.2, "0.5": 0.1},
        ),
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.encode())
    return run


def _behave(scene: Scene, *, fixed: Mapping[str, int], broken: Mapping[str, int] | None = None) -> None:
    """By model: how many of the ten reports it answers right, and how many of the four tasks wrong."""
    right, wrong = Counter[str](), Counter[str]()
    settled: dict[tuple[str, str], str] = {}

    def answer(model: str, messages: list[dict[str, Any]]) -> str:
        asked = messages[-1]["content"]
        if (model, asked) not in settled:
            if asked.startswith("Task"):
                wrong[model] += 1
                bad = wrong[model] <= (broken or {}).get(model, 0)
                settled[model, asked] = f"no {model}" if bad else f"done by {model}"
            else:
                right[model] += 1
                settled[model, asked] = "right" if right[model] <= fixed.get(model, 0) else f"wrong {model}"
        return settled[model, asked]

    scene.fake.answer = answer


def _figures(scene: Scene, run: Run) -> Mapping[str, Any]:
    verdict = scene.store.runs.verdict(run.id)
    assert verdict is not None
    return verdict.figures


def _candidate(scene: Scene, run: Run) -> Adapter:
    return scene.store.adapters.get(run.generation)


def _asked(scene: Scene) -> Counter[str]:
    return Counter(body["model"] for body in scene.fake.requests)


def test_the_weakest_that_passes_becomes_the_candidate_with_its_own_name_and_folder(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 10})
    step = sweep.step()
    adapter = _candidate(sweep, run)
    assert (adapter.name, Path(adapter.path or "").name) == (AT_50, AT_50)
    assert json.loads((Path(adapter.path or "") / CONFIG_FILE).read_text())["lora_alpha"] == 16
    figures = _figures(sweep, run)
    assert (figures["strength"], figures["kl_to_base"]) == (0.5, 0.1)
    assert [(one["strength"], one["accepted"], one["gain"], one["kl_to_base"]) for one in figures["strengths"]] == [
        (1.0, True, 1.0, 0.4), (0.75, True, 1.0, 0.2), (0.5, True, 1.0, 0.1),
    ]  # fmt: skip
    assert step.sentence.endswith("strength 0.5 is the weakest that passes: 1 passes; 0.75 passes; 0.5 passes")
    assert sweep.store.runs.get(run.id).state is RunState.PROMOTING
    assert REGISTRY.get_sample_value("erratad_gate_strength_ratio") == 0.5
    assert REGISTRY.get_sample_value("erratad_gate_kl_nats") == 0.1


def test_live_is_asked_once_for_all_strengths(sweep: Scene) -> None:
    _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 10})
    sweep.step()
    asked = _asked(sweep)
    assert asked["base"] == asked[CANDIDATE] == asked[AT_75] == asked[AT_50] == 28
    assert set(sweep.fake.engine.adapters) == {AT_50}, "a stronger one gives its slot to the next"


def test_a_weaker_one_that_fixes_too_little_is_not_asked_the_other_suites(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10})
    sweep.step()
    assert _candidate(sweep, run).name == AT_75
    assert _asked(sweep)[AT_50] == 20  # ten reports, with and without guidance
    last = _figures(sweep, run)["strengths"][-1]
    assert (last["strength"], last["accepted"], last["all_suites"]) == (0.5, False, False)


def test_a_weaker_one_must_keep_most_of_the_gain(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 7})
    step = sweep.step()
    assert _candidate(sweep, run).name == CANDIDATE
    assert "1 passes; 0.75 fails (kept_gain)" in step.sentence
    assert _asked(sweep)[AT_50] == 0, "no weaker one is tried after a failure"


def test_a_candidate_that_harms_is_tried_weaker(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 2}, broken={CANDIDATE: 2})
    step = sweep.step()
    assert _candidate(sweep, run).name == AT_75
    assert sweep.store.runs.get(run.id).state is RunState.PROMOTING
    assert "strength 0.75 is the weakest that passes: 1 fails (negative_flips, retention, unguided)" in step.sentence


def test_a_candidate_that_gains_nothing_is_not_tried_weaker(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={})
    sweep.step()
    assert sweep.store.runs.get(run.id).state is RunState.REJECTED
    assert _asked(sweep)[AT_75] == 0
    assert _candidate(sweep, run).name == CANDIDATE


def test_where_no_strength_passes_the_event_says_so_of_each(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 10}, broken={CANDIDATE: 3, AT_75: 3, AT_50: 3})
    step = sweep.step()
    assert _candidate(sweep, run).state is AdapterState.REJECTED
    assert "no strength passes: 1 fails" in step.sentence
    [event] = [one for one in waiting_events(sweep.store) if one.type is EventType.ADAPTER_REJECTED]
    assert [one["strength"] for one in event.data["strengths"]] == list(SWEEP)


def test_the_event_of_a_promotion_says_the_strength(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10})
    sweep.step()
    verdict = sweep.store.runs.verdict(run.id)
    sweep.store.adapters.promote(
        run.generation, expected_live=0, actor="tester", reason="better", strengths=strengths_of(verdict)
    )
    [event] = [one for one in waiting_events(sweep.store) if one.type is EventType.ADAPTER_PROMOTED]
    assert (event.subject, event.data["strength"]) == (AT_75, 0.75)
    assert [one["accepted"] for one in event.data["strengths"]] == [True, True, False]


def test_a_kill_between_two_strengths_goes_on_with_the_next_one(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 10})
    usual = sweep.fake.answer

    def stops_at_75(model: str, messages: list[dict[str, Any]]) -> str:
        if model == AT_75:
            sweep.stop.set()
        return usual(model, messages)

    sweep.fake.answer = stops_at_75
    assert sweep.step().sentence.endswith("stopped while measuring; the answers so far are kept")
    assert (sweep.store.runs.get(run.id).state, _candidate(sweep, run).name) == (RunState.EVALUATING, CANDIDATE)
    assert sweep.store.runs.verdict(run.id) is None
    before = _asked(sweep)

    sweep.stop.clear()
    sweep.fake.answer = usual
    sweep.step()
    assert _candidate(sweep, run).name == AT_50
    after = _asked(sweep)
    assert (after["base"], after[CANDIDATE]) == (before["base"], before[CANDIDATE]) == (28, 28)
    assert after[AT_75] == after[AT_50] == 28, "what was answered is not asked again"


def test_a_server_that_refuses_the_weaker_one_leaves_the_verdict_on_the_trained_one(sweep: Scene) -> None:
    run = _run(sweep)
    sweep.fake.unusable[AT_75] = "an older plugin knows no such name"
    _behave(sweep, fixed={CANDIDATE: 10})
    sweep.step()
    assert _candidate(sweep, run).name == CANDIDATE
    assert [one["strength"] for one in _figures(sweep, run)["strengths"]] == [1.0]


def test_by_default_only_the_trained_strength_is_measured(scene: Scene) -> None:
    run = scene.run()
    scene.step()
    assert _figures(scene, run)["strength"] == 1.0
    assert {body["model"] for body in scene.fake.requests} == {"base", CANDIDATE}


def test_the_views_show_the_answers_of_the_strength_that_is_served(sweep: Scene) -> None:
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 2})
    sweep.step()
    shown = generation_view(sweep.store, run.generation).measured
    assert {one.after.arm for one in shown if one.after} == {AT_75}
    assert {one.before.arm for one in shown if one.before} == {BASE}


def test_reports_are_asked_again_of_the_strength_that_goes_live(sweep: Scene) -> None:
    sweep.config["answers_per_report"] = 4
    run = _run(sweep)
    _behave(sweep, fixed={CANDIDATE: 10, AT_75: 10, AT_50: 2})
    assert "accepted" in sweep.step().sentence
    sampled = {answer.arm for answer in sweep.store.runs.answers(run.id) if answer.sample}
    assert sampled == {AT_75}
    assert {one.counts for one in sweep.store.retests.of_run(run.id)} == {"0 of 1 good before, 4 of 4 after"}
