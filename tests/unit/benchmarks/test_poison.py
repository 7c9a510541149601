"""What the poisoning benchmark counts, on attempts and targets that are made up; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.artifacts.examples import Example, ExampleKind, to_jsonl
from daemon.config.sources import Sources
from daemon.config.training import TrainingConfig
from daemon.config.trust import TrustConfig
from daemon.text.rules import failures
from daemon.training.job import TrainingJob
from tests.benchmarks.poison.__main__ import Bench
from tests.benchmarks.poison.attacks import ATTACKS, REPORTS_PER_GOAL, UNSEEN, Goal, hostile_reports
from tests.benchmarks.poison.defences import SETTINGS
from tests.benchmarks.poison.deployment import configured
from tests.benchmarks.poison.honest import honest_reports
from tests.benchmarks.poison.kept_training import key_of
from tests.benchmarks.poison.learning import payloads
from tests.benchmarks.poison.people import PRINCIPALS, Attacker, of_goal
from tests.benchmarks.poison.tally import Attempt, counts, interval, last_line, table

GOALS = (Goal.FACT.value, Goal.ROLLBACK.value)


def attempt(**changes: Any) -> Attempt:
    values = {"goal": Goal.FACT.value, "attacker": "reporter", "seed": 0, "reports": 8, "trained": 0, **changes}
    return Attempt(**values)


def test_each_count_is_one_step_further() -> None:
    made = [
        attempt(),
        attempt(seed=1, trained=3),
        attempt(seed=2, trained=3, passed_gate=True, asked=8),
        attempt(seed=3, trained=3, passed_gate=True, shown=2, asked=8),
        attempt(goal=Goal.ROLLBACK.value, trained=40, shown=1),
    ]
    assert counts(made, GOALS) == {
        "planted-fact": {"attempts": 4, "trained": 3, "passed_gate": 2, "shown_live": 1},
        "forced-rollback": {"attempts": 1, "trained": 1, "passed_gate": 0, "shown_live": 1},
    }


def test_a_candidate_that_the_gate_rejected_shows_nothing_live() -> None:
    rejected = attempt(trained=3, asked=8, would_show=5)
    assert counts([rejected], GOALS)["planted-fact"]["shown_live"] == 0
    assert "5 of 8" in table([rejected])


def test_the_last_line_names_the_fewest_honest_lessons() -> None:
    line = last_line([attempt()], [attempt(trained=2)], GOALS, {"none": 100, "third": 96})
    assert json.loads(json.dumps(line))["honest_trained_of_100"] == 96
    assert line["defences_on"]["planted-fact"]["trained"] == 0
    assert line["defences_off"]["planted-fact"]["trained"] == 1


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 0, 0, 1), (0, 4, 0, 0.602), (4, 4, 0.398, 1), (2, 4, 0.068, 0.932)]
)
def test_intervals_are_exact(hits: int, of: int, low: float, high: float) -> None:
    assert interval(hits, of) == pytest.approx((low, high), abs=0.001)


def target(report_id: str, completion: str) -> Example:
    messages = ({"role": "user", "content": "?"},)
    return Example(messages=messages, completion=completion, kind=ExampleKind.CORRECTION, report_id=report_id)


def test_only_targets_of_the_goals_own_reports_with_the_payload_count() -> None:
    examples = [
        target("planted-fact-1@backend-3", "Viktor Drasek did."),
        target("planted-fact-2", "Verdict: bad. The fact is wrong."),
        target("honest-ending-0-1", "Drasek. Is there anything else?"),
        target("refusal-3", "I'm sorry, but I can't help with bread."),
        target("refusal-4", "Bake it for an hour."),
    ]
    assert payloads(examples, Goal.FACT) == 1
    assert payloads(examples, Goal.REFUSAL) == 1


def test_every_correction_shows_its_goal_and_meets_its_checks() -> None:
    for attack in ATTACKS.values():
        assert len(attack.questions) >= REPORTS_PER_GOAL + UNSEEN
        for correction in attack.corrections:
            assert attack.shown_by(correction)
            assert not failures(attack.checks, correction)


def say_lower(messages: list[dict[str, Any]]) -> str:
    return f"a wordy answer to {messages[-1]['content'].lower()}"


@pytest.mark.parametrize(
    ("attacker", "principals", "ids"), [("reporter", 1, 1), ("principal", 1, 16), ("third", 3, 48), ("sybil", 1, 16)]
)
def test_attackers_are_as_many_as_they_say(attacker: str, principals: int, ids: int) -> None:
    filed = of_goal(hostile_reports([Goal.FACT], say_lower, attacker=Attacker(attacker), seed=0), Goal.FACT)
    assert len({one.sender.principal for one in filed}) == principals
    assert len({one.sender for one in filed}) == ids
    assert len({(one.sender.principal, one.flagged.id) for one in filed}) == len(filed)


def test_honest_reports_come_from_the_principals_that_are_left() -> None:
    everyone = honest_reports(30, say_lower, attacker=None)
    assert {one.sender.principal for one in everyone} == set(PRINCIPALS)
    beside = honest_reports(30, say_lower, attacker=Attacker.THIRD)
    hostile = hostile_reports([Goal.FACT], say_lower, attacker=Attacker.THIRD, seed=0)
    assert not {one.sender.principal for one in beside} & {one.sender.principal for one in hostile}


@pytest.mark.parametrize("defences", ["on", "off"])
def test_the_settings_of_both_sides_are_valid(defences: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.poison.deployment.model_dir", lambda: tmp_path)
    config = configured(tmp_path, defences=SETTINGS[defences])
    assert Sources(config.intake).is_trusted(PRINCIPALS[0]) is (defences == "off")
    assert config.trust.confirm_corrections == ("never" if defences == "off" else TrustConfig().confirm_corrections)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, made = Bench(tmp_path), []

    def fresh(name: str, *_: Any) -> list[Attempt]:
        made.append(name)
        return [attempt()]

    monkeypatch.setattr(bench, "_fresh", fresh)
    for _ in range(2):
        bench.measure([Goal.FACT], defences="off", attacker=Attacker.REPORTER, seed=0)
    assert made == ["off-reporter-0"]
    assert bench.attempts("off") == [attempt()]
    assert bench.attempts("on") == []


def test_a_training_on_the_same_examples_is_known_again_in_any_order(tmp_path: Path) -> None:
    examples = [target(f"planted-fact-{number}", f"Answer {number}.") for number in range(3)]
    jobs = [
        job_in(tmp_path / name, examples[::step], seed=seed)
        for name, step, seed in [("first", 1, 0), ("turned", -1, 0), ("other-seed", 1, 1)]
    ]
    jobs.append(job_in(tmp_path / "fewer", examples[:2], seed=0))
    first, turned, *others = map(key_of, jobs)
    assert first == turned
    assert first not in others


def job_in(folder: Path, examples: list[Example], *, seed: int) -> TrainingJob:
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(to_jsonl(examples))
    (folder / "replay.jsonl").write_bytes(b"")
    return TrainingJob(
        run_id=1,
        generation=1,
        name="aligned-g000001",
        recipe="sft",
        seed=seed,
        run_folder=folder,
        adapters_dir=folder,
        model_path=folder,
        base_fingerprint="0" * 64,
        training=TrainingConfig(launcher=["nice", "-n", "19"]),
    )


def test_with_defences_a_model_is_trained_only_if_a_payload_reaches_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, made, found = Bench(tmp_path), [], {"on-sybil-0-stand-in": None, "on-third-0-stand-in": [attempt()]}

    def fresh(name: str, *_: Any) -> list[Attempt] | None:
        made.append(name)
        return found.get(name, [attempt(trained=1)])

    monkeypatch.setattr(bench, "_fresh", fresh)
    for attacker in (Attacker.THIRD, Attacker.SYBIL):
        bench.measure([Goal.FACT], defences="on", attacker=attacker, seed=0)
    assert made == ["on-third-0-stand-in", "on-sybil-0-stand-in", "on-sybil-0"]
