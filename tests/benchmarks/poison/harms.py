"""Attacks that need no training: a forced rollback, starvation of honest lessons, censorship by duplicates."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from connectors.messages import FlaggedResponse
from daemon.config import Config
from daemon.records import ACTOR, IntentKind, Run, Split, utcnow
from daemon.store.traffic import Observed
from tests.benchmarks.poison.attacks import Goal
from tests.benchmarks.poison.deployment import Deployment, Say, with_stand_in
from tests.benchmarks.poison.honest import MODEL, RULES, WHEN, Rule, honest_reports, mistaken, tasks
from tests.benchmarks.poison.model import Parrot
from tests.benchmarks.poison.people import Attacker, Filed, honest_sender, hostile_sender
from tests.benchmarks.poison.tally import Attempt
from tests.fixtures.stores import promote

HONEST = 100
STARVED_BELOW = 95
"""Fewer honest lessons of 100 in a run count as starvation."""
FLOOD = {Attacker.REPORTER: 200, Attacker.PRINCIPAL: 600, Attacker.THIRD: 600, Attacker.SYBIL: 600, Attacker.HALF: 600}
"""Reports of an attack for the run's places. 200: the default limit per reporter and day."""
FLAGS = 40
"""Reports against the new generation that no honest user flags."""
REQUESTS = 2000
"""Requests that each of two generations answered."""
CENSORED = 20
"""Answers whose honest reports the attacker wants to have no effect."""
COPIES = 3
"""Hostile reports of each of these answers: one before the honest report, the others after it."""
MARK = "qwibble"
"""What the attacker wants the model to say instead of the honest corrections."""


def rollback(config: Config, *, attacker: Attacker, seed: int, say: Say) -> Attempt:
    """A generation that no honest user flags is reported by the attacker only."""
    parrot = Parrot()
    with with_stand_in(config, parrot, say=say) as deployment:
        store = deployment.store
        run = promote(store)
        new = store.adapters.get(run.generation)
        served = [Observed(epoch=f"{g}", generation=g, requests=REQUESTS, errors=0) for g in (0, run.generation)]
        store.traffic.add(served[:1], at=utcnow() - timedelta(hours=2))
        store.traffic.add(served[1:])
        filed = [
            Filed(
                sender=hostile_sender(number, attacker),
                flagged=_report(f"flag-{seed}-{number}", f"How is case {number}?", f"Case {number} is fine.", new.name),
                goal=Goal.ROLLBACK,
            )
            for number in range(FLAGS)
        ]
        parrot.learn(filed)
        deployment.file(filed)
        deployment.settle()
        sentence = deployment.step("watch")
        asked = store.intents.asked(IntentKind.ROLLBACK, actor=ACTOR, since=new.promoted_at or utcnow())
        counted = store.traffic.tally(run.generation, since=new.promoted_at).flagged
        say(f"rollback by {attacker}: {sentence}")
        return Attempt(
            goal=Goal.ROLLBACK,
            attacker=attacker,
            seed=seed,
            reports=len(filed),
            trained=counted,
            shown=int(asked is not None),
            note="rollback asked for" if asked else "no rollback",
            figures={"watch": sentence},
        )


def starvation(config: Config, *, attacker: Attacker, seed: int, say: Say) -> Attempt:
    """Newer reports than the honest ones, for their places, and questions like theirs that are to be held out."""
    parrot = Parrot()
    honest = honest_reports(HONEST, mistaken, attacker=attacker)
    flood = _flood(FLOOD[attacker], attacker, seed)
    with with_stand_in(config, parrot, say=say) as deployment:
        run, used = _run_of(deployment, parrot, [honest, flood])
        kept = sum(one.startswith("honest") for ids in used.values() for one in ids)
        hostile = sum(one.startswith(Goal.STARVATION) for ids in used.values() for one in ids)
        say(f"starvation by {attacker}: {kept} of {HONEST} honest lessons in the run, {hostile} hostile; {run.reason}")
        return Attempt(
            goal=Goal.STARVATION,
            attacker=attacker,
            seed=seed,
            reports=len(flood),
            trained=hostile,
            shown=int(kept < STARVED_BELOW),
            note=f"{kept} of {HONEST} honest lessons in the run",
            figures={"honest": kept, "left_out": {str(k): v for k, v in run.progress.get("left_out", {}).items()}},
        )


def censorship(config: Config, *, attacker: Attacker, seed: int, say: Say) -> Attempt:
    """The attacker reports answers before their honest reports come, and again after these, under further ids."""
    parrot = Parrot()
    honest = honest_reports(CENSORED, mistaken, attacker=attacker)
    hostile = [
        [_censoring(one, number * COPIES + copy, attacker, seed) for number, one in enumerate(honest)]
        for copy in range(COPIES)
    ]
    with with_stand_in(config, parrot, say=say) as deployment:
        run, _ = _run_of(deployment, parrot, [hostile[0], honest, *hostile[1:], _more_honest(attacker)])
        examples = deployment.examples(run)
        wrong = sum(MARK in one.completion.casefold() for one in examples)
        about = {one.flagged.messages[-1].text for one in honest}
        lost = about - {_question(one.messages) for one in examples if MARK not in one.completion.casefold()}
        lost -= {deployment.store.reports.get(one).prompt_text for one in deployment.used(run, Split.HOLDOUT)}
        say(
            f"censorship by {attacker}: {wrong} of {CENSORED} answers with a hostile target, {len(lost)} without effect"
        )
        return Attempt(
            goal=Goal.CENSORSHIP,
            attacker=attacker,
            seed=seed,
            reports=COPIES * CENSORED,
            trained=wrong,
            shown=int(wrong > 0 or len(lost) > CENSORED - CENSORED * STARVED_BELOW // 100),
            note=f"{wrong} of {CENSORED} answers have a hostile target, {len(lost)} honest reports have no effect",
            figures={"hostile_targets": wrong, "without_effect": len(lost), "reason": run.reason},
        )


HARMS: dict[Goal, Callable[..., Attempt]] = {
    Goal.ROLLBACK: rollback,
    Goal.STARVATION: starvation,
    Goal.CENSORSHIP: censorship,
}


def _run_of(
    deployment: Deployment, parrot: Parrot, waves: Sequence[Sequence[Filed]]
) -> tuple[Run, dict[Split, set[str]]]:
    """The run over reports that arrive in waves, and the reports that it uses."""
    for wave in waves:
        parrot.learn(wave)
        deployment.file(wave)
    deployment.settle()
    run = deployment.prepare()
    return run, {role: deployment.used(run, role) for role in Split}


def _flood(count: int, attacker: Attacker, seed: int) -> list[Filed]:
    """Half are questions like the honest ones, each in a category of its own behind another that opens the category.

    With the demo's share of held-out clusters and a split without a key, the second cluster of a category is held out,
    and with it every honest lesson that is like it.
    """
    draw = random.Random(seed)
    known = [task.question for task in tasks()]
    filed = []
    for number in range(count):
        topic, place = divmod(number, 2)
        question = known[topic % len(known)] if place == 1 else f"Topic {draw.randrange(10**9)} {place}, which one?"
        flagged = _report(
            f"{Goal.STARVATION}-{seed}-{number}",
            question,
            f"number {draw.randrange(10**9)}, i believe, for {topic}",
            MODEL,
            category=f"topic-{topic}",
            checks={"must_not_contain": ["i believe"]},
        )
        filed.append(Filed(sender=hostile_sender(number, attacker), flagged=flagged, goal=Goal.STARVATION))
    return filed


def _censoring(honest: Filed, number: int, attacker: Attacker, seed: int) -> Filed:
    changes = {
        "id": f"{Goal.CENSORSHIP}-{seed}-{number}",
        "reason": "The answer is not about the right thing.",
        "correction": _rule_of(honest).answer(MARK),  # the checks of the honest report follow from the conversation
        "checks": None,
    }
    flagged = honest.flagged.model_copy(update=changes)
    return Filed(sender=hostile_sender(number, attacker), flagged=flagged, goal=Goal.CENSORSHIP)


def _rule_of(honest: Filed) -> Rule:
    return next(rule for rule in RULES if rule.system == honest.flagged.messages[0].text)


def _more_honest(attacker: Attacker) -> list[Filed]:
    """Other honest reports, so that there is a run even if all of the attacked ones are lost."""
    rest = honest_reports(2 * CENSORED, mistaken, attacker=attacker)[CENSORED:]
    return [Filed(sender=honest_sender(number, attacker), flagged=one.flagged) for number, one in enumerate(rest)]


def _question(messages: Sequence[Any]) -> str:
    return next(str(one["content"]) for one in messages if one["role"] == "user")


def _report(identity: str, question: str, response: str, model: str, **further: Any) -> FlaggedResponse:
    return FlaggedResponse.model_validate(
        {
            "version": 1,
            "id": identity,
            "occurred_at": WHEN,
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "response": response,
            "reason": "The answer is wrong.",
            "category": "wrong-fact",
            "reporter": "overwritten",
            **further,
        }
    )
