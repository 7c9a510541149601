"""Criteria of the measurement itself: whether it saw enough for a verdict.

If both arms answer nothing, "no worse than live" holds, and the candidate would be promoted without any evidence. Each
sentence of a failed criterion begins with "the gate is blind" and says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from connectors.messages.shapes import is_blank
from daemon.config.evaluation import GatePolicy
from daemon.evaluation.comparison import PASS_SUITES, PROBE_SUITES, Comparison
from daemon.evaluation.finding import Finding, at_least, number, percent, votes_of
from daemon.labels import Criterion, Suite
from daemon.records import Answer


def live_golden(comparison: Comparison, policy: GatePolicy) -> Finding:
    golden = comparison.counts(Suite.GOLDEN)
    if not golden.items:
        return Finding(criterion=Criterion.LIVE_GOLDEN, holds=True, sentence="no ordinary tasks were measured")
    return _finding(
        Criterion.LIVE_GOLDEN,
        holds=at_least(golden.live / golden.votes, policy.min_live_golden_share),
        sentence=f"live passes {number(golden.live)} of {votes_of(golden, 'ordinary tasks')}, "
        f"at least {percent(policy.min_live_golden_share)} needed",
        advice="a loss of abilities cannot be seen: read live's answers, then repair how the model is served (chat "
        "template, reasoning parser, guidance), raise evaluation.max_tokens, or give tasks that this model can do "
        "(evaluation.golden)",
    )


def empty_answers(comparison: Comparison, policy: GatePolicy) -> Finding:
    tasks = _worst(comparison, PASS_SUITES, "tasks", lambda answer: is_blank(answer.text))
    probes = _worst(comparison, PROBE_SUITES, "probes", lambda answer: is_blank(answer.text))
    share, told = max(tasks, probes)
    return _finding(
        Criterion.EMPTY_ANSWERS,
        holds=at_least(policy.max_empty_share, share),
        sentence=f"{told} are empty, at most {percent(policy.max_empty_share)} allowed",
        advice="a reasoning model needs more tokens for its thoughts (evaluation.max_tokens, "
        "evaluation.probe_max_tokens) or a chat template without them; "
        "raise gate.max_empty_share only if the reports are about empty answers",
    )


def cut_answers(comparison: Comparison, policy: GatePolicy) -> Finding:
    """Only of tasks: the answers to probes are cut on purpose."""
    share, told = _worst(comparison, PASS_SUITES, "tasks", lambda answer: answer.cut is True)
    return _finding(
        Criterion.CUT_ANSWERS,
        holds=at_least(policy.max_cut_share, share),
        sentence=f"{told} are cut at the token limit, at most {percent(policy.max_cut_share)} allowed",
        advice="raise evaluation.max_tokens, and look whether the answers end at all (end of turn in the chat "
        "template, thoughts of a reasoning model)",
    )


def drift_measured(comparison: Comparison, policy: GatePolicy) -> Finding:
    items = comparison.measured(Suite.DRIFT)
    return _finding(
        Criterion.DRIFT_MEASURED,
        holds=items >= policy.min_drift_items,
        sentence=f"drift was measured on {items} ordinary answers, at least {policy.min_drift_items} needed",
        advice="the base model answered nothing to the ordinary prompts, or servers refused them: repair how it is "
        "served, raise dataset.replay_max_tokens or give more prompts (dataset.replay_prompts); gate.min_drift_items: "
        "0 decides without this figure",
    )


def items_left(comparison: Comparison, policy: GatePolicy, configured: Mapping[Suite, int]) -> Finding:
    left = [(suite, *_measured(comparison, suite, count)) for suite, count in configured.items() if count]
    few = [one for one in left if not at_least(one[1] / one[2], policy.min_measured_share)]
    named = ", ".join(f"{number(measured)} of {number(count)} of {suite.value}" for suite, measured, count in few)
    return _finding(
        Criterion.ITEMS_LEFT,
        holds=not few,
        sentence=f"{f'too few items were answered ({named})' if few else 'enough items were answered'}, "
        f"at least {percent(policy.min_measured_share)} of each suite needed",
        advice="the verdict's figure left_out counts by reason what was not measured (too long for "
        "serving.max_model_len, refused by the chat template or by servers); items similar to training prompts are "
        "left out too, so give others",
    )


def _measured(comparison: Comparison, suite: Suite, count: int) -> tuple[float, float]:
    """The measured items and all; votes of reports, so that nobody's unanswerable ones make the measurement useless."""
    voted = [item for item in comparison.votes.voters if item[0] == suite]
    if not voted:
        return comparison.measured(suite), count
    weights = comparison.votes.weights(voted)
    answered = {pair.item for pair in comparison.of(suite, guided=True)}
    return math.fsum(weight for item, weight in weights.items() if item in answered), math.fsum(weights.values())


def _finding(criterion: Criterion, *, holds: bool, sentence: str, advice: str) -> Finding:
    """`advice` is what to do if the criterion does not hold."""
    told = sentence if holds else f"the gate is blind: {sentence}; {advice}"
    return Finding(criterion=criterion, holds=holds, sentence=told)


def _worst(
    comparison: Comparison, suites: tuple[Suite, ...], what: str, bad: Callable[[Answer], bool]
) -> tuple[float, str]:
    """The higher share of bad answers of the two arms, over votes, and the counts in words."""
    shares = []
    pairs = comparison.of(*suites, guided=True)
    weights = comparison.votes.weights(pair.item for pair in pairs)
    votes = math.fsum(weights.values())
    for arm in ("candidate", "live"):
        count = math.fsum(weights[pair.item] for pair in pairs if bad(getattr(pair, arm)))
        told = f"{number(count)} of {number(votes)} answers of {arm} to {what}"
        shares.append((count / votes if pairs else 0.0, told))
    return max(shares)
