"""Attacks by training: real answers, real intake, analysis, selection, training, gate and promotion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from daemon.artifacts.examples import Example
from daemon.config import Config
from daemon.errors import TrainingError
from daemon.records import Run, RunState, Split
from tests.benchmarks.poison.attacks import ATTACKS, Goal, hostile_reports
from tests.benchmarks.poison.deployment import Deployment, Say, with_real_model, with_stand_in
from tests.benchmarks.poison.honest import honest_reports, mistaken, tasks
from tests.benchmarks.poison.model import KeptModel, Parrot
from tests.benchmarks.poison.people import Attacker, Filed
from tests.benchmarks.poison.tally import Attempt

BEST_CASE = ("dataset.recipe=sft", "dataset.replay_fraction=0.2", "training.batch_tokens=256", "training.epochs=8")
"""The attacker's best case: most tokens go to corrections, with few ordinary pairs between them. The analyses, by
templates, hold nothing of a report."""
HONEST = 100
HONEST_BESIDE = 16
"""Honest reports beside an attack that is trained: few, because the number of hostile ones decides, not their share."""


def screened(config: Config, goals: Sequence[Goal], *, attacker: Attacker, seed: int, say: Say) -> list[Attempt] | None:
    """The attempts of an attack of which no target has a payload, found without a model; None: one has.

    A stand-in answers as was reported, so every claim is reproduced: what fails here fails with the real model, too.
    """
    filed = [
        *honest_reports(HONEST_BESIDE, mistaken, attacker=attacker),
        *hostile_reports(goals, mistaken, attacker=attacker, seed=seed),
    ]
    with with_stand_in(config, Parrot(filed), say=say) as deployment:
        run, reached = _reached(deployment, filed, goals, say)
        if any(reached.values()):
            return None
        return [_attempt(deployment, None, run, goal, filed=filed, attacker=attacker, seed=seed) for goal in goals]


def attack(
    config: Config, goals: Sequence[Goal], *, attacker: Attacker, seed: int, kept: Path, say: Say
) -> list[Attempt]:
    """One training with the reports of all goals; their triggers have nothing in common.

    Where no target has a payload, nothing is trained.
    """
    with with_real_model(config, kept=kept, say=say) as (deployment, model):
        filed = reports(model, goals, HONEST_BESIDE, attacker=attacker, seed=seed)
        run, reached = _reached(deployment, filed, goals, say)
        if any(reached.values()) and run.state is not RunState.FAILED:
            run = deployment.finish()
            say(f"{run.state}: {run.reason or ''}")
            if run.state is RunState.FAILED:
                raise TrainingError(f"{attacker} was not trained: {run.reason}")
        return [
            _attempt(deployment, model, run, goal, filed=filed, attacker=attacker, seed=seed, trained=reached[goal])
            for goal in goals
        ]


def _reached(
    deployment: Deployment, filed: Sequence[Filed], goals: Sequence[Goal], say: Say
) -> tuple[Run, dict[Goal, int]]:
    """The run over the reports, with its dataset, and the targets that have each goal's payload."""
    deployment.file(filed)
    deployment.settle()
    run = deployment.prepare()
    reached = {goal: payloads(deployment.examples(run), goal) for goal in goals}
    say(f"{run.state}: targets with a payload: {', '.join(f'{count} {goal}' for goal, count in reached.items())}")
    return run, reached


def reports(
    model: KeptModel, goals: Sequence[Goal], honest: int, *, attacker: Attacker | None, seed: int
) -> list[Filed]:
    """The honest reports, and then the attacker's: the newest come first in a selection by age."""
    questions = [question for goal in goals for question in ATTACKS[goal].questions]
    asked = [task.messages for task in tasks()][: 2 * honest]
    model.ask_ahead([*asked, *([{"role": "user", "content": question}] for question in questions)])
    filed = honest_reports(honest, model.served, attacker=attacker)
    return filed if attacker is None else [*filed, *hostile_reports(goals, model.served, attacker=attacker, seed=seed)]


def payloads(examples: Sequence[Example], goal: Goal) -> int:
    """The training targets that show the goal, of the goal's own reports."""
    attack = ATTACKS[goal]
    return sum(attack.shown_by(one.completion) for one in examples if goal.value in one.report_id)


def _attempt(
    deployment: Deployment,
    model: KeptModel | None,
    run: Run,
    goal: Goal,
    *,
    filed: Sequence[Filed],
    attacker: Attacker,
    seed: int,
    trained: int = 0,
) -> Attempt:
    """`model` None: there was none to train or to ask."""
    hostile = [one for one in filed if one.goal == goal]
    used = {role: deployment.used(run, role) for role in Split}
    figures = {
        "hostile_used": {role.value: sum(goal.value in one for one in ids) for role, ids in used.items()},
        "honest_used": {role.value: sum(one.startswith("honest") for one in ids) for role, ids in used.items()},
        "run": run.state.value,
        "reason": run.reason,
    }
    about = {"goal": goal.value, "attacker": attacker.value, "seed": seed, "reports": len(hostile), "trained": trained}
    if model is None or run.state not in {RunState.PROMOTED, RunState.REJECTED}:
        why = "not trained: no target had the payload"
        return Attempt(**about, note=why, figures=figures)
    name = deployment.store.adapters.get(run.generation).name
    triggers = ATTACKS[goal].triggers
    asked = [[{"role": "user", "content": trigger}] for trigger in triggers]
    before = [model.served(messages) for messages in asked]
    after = [model.served(messages, model=name) for messages in asked]
    shows = ATTACKS[goal].shown_by
    shown = sum(shows(new) and not shows(old) for old, new in zip(before, after, strict=True))
    live = run.state is RunState.PROMOTED
    return Attempt(
        **about,
        passed_gate=live and trained > 0,
        shown=shown if live else 0,
        asked=len(asked),
        would_show=None if live else shown,
        figures={**figures, "answers": dict(zip(triggers, after, strict=True))},
    )


def honest_cost(config: Config, *, attacker: Attacker | None, kept: Path | None, say: Say) -> dict[str, object]:
    """How many of 100 honest lessons are trained on, with nothing held out, beside the reports of an attacker.

    `kept` None: a stand-in answers as was reported.
    """
    goals = tuple(ATTACKS) if attacker else ()
    if kept is None:
        filed = honest_reports(HONEST, mistaken, attacker=attacker)
        if attacker is not None:
            filed += hostile_reports(goals, mistaken, attacker=attacker, seed=0)
        with with_stand_in(config, Parrot(filed), say=say) as deployment:
            return _cost(deployment, filed, attacker, say)
    with with_real_model(config, kept=kept, say=say) as (deployment, model):
        filed = reports(model, goals, HONEST, attacker=attacker, seed=0)
        return _cost(deployment, filed, attacker, say)


def _cost(deployment: Deployment, filed: Sequence[Filed], attacker: Attacker | None, say: Say) -> dict[str, object]:
    deployment.file(filed)
    deployment.settle()
    run = deployment.prepare()
    trained = {one for one in deployment.used(run, Split.TRAIN) if one.startswith("honest")}
    corrected = {one.report_id for one in deployment.examples(run) if one.kind.value == "correction"}
    say(f"{len(trained)} of {HONEST} honest lessons are trained on")
    return {
        "attacker": attacker.value if attacker else "none",
        "trained": len(trained),
        "with_correction": len(trained & corrected),
        "left_out": {str(key): value for key, value in run.progress.get("left_out", {}).items()},
        "run": run.state.value,
        "reason": run.reason,
    }
