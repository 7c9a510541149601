"""Does a teacher help? Its answer is judged where the model erred: it must be good by the lesson's rules, and sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from connectors.messages import Checks
from daemon.artifacts.run_folder import Flips
from daemon.categories import Kind
from daemon.dataset.teachers import CONSISTENCY, CONTEXT_DISTILLATION
from daemon.labels import Unsound
from daemon.records import Lesson, Report
from daemon.text.merging import merged
from daemon.text.refusal import refusal
from daemon.text.rules import Rules, failures
from daemon.text.similarity import Words, cosines
from daemon.text.soundness import asked_by, unsound

TELLING_CHARACTERS = 40
"""Of a long text that a good answer does not hold, so much of its start tells it: the answer may be cut within it."""
MIN_RATIO = 0.5
"""Below this flip rate, a kind's lessons get their corrections as targets."""
TIE = 0.2
"""Flip rates that are nearer to each other than this are the same."""
_FIRST: Mapping[Kind, tuple[str, ...]] = {Kind.SECRET_LEAK: (CONTEXT_DISTILLATION, CONSISTENCY)}
"""Of recipes with the same rate the first one is taken. A teacher that declines a secret also makes the model decline
harmless questions beside it (docs/recipes.md)."""


def flips(report: Report, lesson: Lesson, answer: str) -> bool | None:
    """Whether the answer is good where the flagged one is bad. None: no rule and no correction says so."""
    said = merged(report)
    asked = replace(asked_by(said.flagged, correction=lesson.correction), kind=report.kind)
    if said.rules is None and lesson.correction is None:
        return None
    declines, fault = refusal(answer) is not None, unsound(answer, asked)
    must_decline = _must_decline(report, lesson)
    about_nothing = fault is Unsound.OFF_TOPIC and must_decline  # a refusal need not say what it refuses
    if (fault is not None and not about_nothing) or (must_decline and not declines):
        return False
    if said.rules is not None:
        return not failures(_telling(said.rules), answer)
    return must_decline or _is_nearer(answer, lesson.correction or "", report.flagged.shown_response)


def _must_decline(report: Report, lesson: Lesson) -> bool:
    """Of a leak always: an invented secret is not the secret, and no good answer. Else if the correction does."""
    return report.kind is Kind.SECRET_LEAK or (lesson.correction is not None and refusal(lesson.correction) is not None)


def _telling(rules: Rules) -> Rules:
    every = rules if isinstance(rules, tuple) else (rules,)
    return tuple(_with_heads(checks) for checks in every)


def _with_heads(checks: Checks) -> Checks:
    heads = [text[:TELLING_CHARACTERS] for text in checks.must_not_contain]
    return checks.model_copy(update={"must_not_contain": heads})


def _is_nearer(answer: str, good: str, bad: str) -> bool:
    to_good, to_bad = cosines(Words().vectors([answer]), Words().vectors([good, bad]))[0]
    return bool(to_good > to_bad)


def best_recipe(kind: Kind, rates: Mapping[str, Flips], *, otherwise: str) -> str:
    """The recipe for a kind, by the measured flip rates of recipes with a teacher."""
    order = in_order(kind)
    measured = {name: rates[name].ratio for name in order if name in rates and rates[name].lessons}
    best = max(measured.values(), default=0.0)
    if best < MIN_RATIO:
        return otherwise
    return next(name for name in measured if measured[name] >= best - TIE)


def in_order(kind: Kind) -> tuple[str, ...]:
    return _FIRST.get(kind, (CONSISTENCY, CONTEXT_DISTILLATION))
