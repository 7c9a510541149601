"""Metrics of a verdict."""

from __future__ import annotations

import math

from daemon import metrics
from daemon.evaluation.collapse import variety
from daemon.evaluation.comparison import PASS_SUITES, PROBE_SUITES, ArmScores, Comparison, mean
from daemon.evaluation.sweep import Tried
from daemon.labels import Suite

ARMS = ("candidate", "live")


def export_verdict(best: Tried, candidate: ArmScores, live: ArmScores) -> None:
    """Of the strength that decided, and of live."""
    decision = best.decision
    metrics.GATE_STRENGTH.set(best.strength)
    metrics.GATE_KL.set(math.nan if best.kl_to_base is None else best.kl_to_base)
    for arm, scores in zip(ARMS, (candidate, live), strict=True):
        found = variety(scores)
        metrics.ANSWERS_DISTINCT.labels(arm=arm).set(math.nan if found.distinct is None else found.distinct)
        metrics.ANSWERS_OVERLAP.labels(arm=arm).set(math.nan if found.overlap is None else found.overlap)
    metrics.GATE_VERDICTS.labels(verdict="accepted" if decision.accepted else "rejected").inc()
    for finding in decision.failed:
        metrics.GATE_REASONS.labels(criterion=finding.criterion.value).inc()
    if not decision.accepted:
        metrics.RUNS.labels(outcome="rejected").inc()
    comparison = Comparison(candidate, live)
    for suite in (*PASS_SUITES, *PROBE_SUITES, Suite.PRAISED):
        for guided in (True, False):
            counts = comparison.counts(suite, guided=guided)
            for arm, passed in (("candidate", counts.candidate), ("live", counts.live)):
                _set_score(suite, arm, guided=guided, score=passed / counts.votes if counts.items else None)
    drift = comparison.of(Suite.DRIFT, guided=False)
    for arm, answers in (("candidate", [p.candidate for p in drift]), ("live", [p.live for p in drift])):
        bits = [answer.bits_per_token for answer in answers if answer.bits_per_token is not None]
        _set_score(Suite.DRIFT, arm, guided=False, score=mean(bits))


def _set_score(suite: Suite, arm: str, *, guided: bool, score: float | None) -> None:
    """Set the pass rate, or bits per token for drift; NaN if nothing was measured."""
    gauge = metrics.EVALUATION_SCORE.labels(suite=suite.value, arm=arm, guided=str(guided).lower())
    gauge.set(float("nan") if score is None else score)
