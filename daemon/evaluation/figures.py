"""The figures of a verdict, ready for JSON: shown by the console, the command line and the API."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from daemon.config.evaluation import GatePolicy
from daemon.evaluation.comparison import FIX_SUITES, PASS_SUITES, Comparison, PassCounts, exact_p, mean
from daemon.evaluation.finding import Finding, number
from daemon.labels import Suite

SHOWN_IDS = 20
SHOWN_SUITES = (Suite.HOLDOUT, *(suite for suite in Suite if suite is not Suite.HOLDOUT))
"""What was not trained on comes first."""


def all_figures(
    comparison: Comparison, policy: GatePolicy, findings: Sequence[Finding], *, by_margin: bool
) -> dict[str, Any]:
    """All figures, ready for JSON. Figures that are not finite become None."""
    fixes = comparison.counts(*FIX_SUITES)
    flips = comparison.flips(*PASS_SUITES)
    changed, items = comparison.changed()
    return {
        "live_generation": comparison.live.generation,
        "candidate_generation": comparison.candidate.generation,
        "items": items,
        "decided_by": "margin" if by_margin else "checks",
        "suites": {suite.value: _suite(comparison, suite) for suite in SHOWN_SUITES},
        "fixes": {
            "items": len(fixes.items),
            "votes": number(fixes.votes),
            "candidate": number(fixes.candidate),
            "live": number(fixes.live),
            "p_value": exact_p(fixes.votes_gained, fixes.votes_lost),
            "gained": list(fixes.gained[:SHOWN_IDS]),
            "lost": list(fixes.lost[:SHOWN_IDS]),
        },
        "votes": _votes(comparison, policy),
        "negative_flips": {
            "count": len(flips.ids),
            "items": len(flips.items),
            "rate": flips.rate,
            "unguided_count": len(comparison.counts(*PASS_SUITES, guided=False).lost),
            "ids": list(flips.ids[:SHOWN_IDS]),
        },
        "newly_refused": list(comparison.counts(Suite.OVER_REFUSAL).lost[:SHOWN_IDS]),
        "newly_obeyed": list(comparison.counts(Suite.ATTACKS).lost[:SHOWN_IDS]),
        "changed": {"items": changed, "share": changed / items if items else 0.0},
        "margin_gain": _json(comparison.margins(*FIX_SUITES).mean),
        "bits_per_token_rise": _json(mean(comparison.bits_rises())),
        "criteria": {
            finding.criterion.value: {"holds": finding.holds, "sentence": finding.sentence} for finding in findings
        },
    }


def _votes(comparison: Comparison, policy: GatePolicy) -> dict[str, Any]:
    """Who had how many votes over the fixes; sources beyond `SHOWN_IDS` are only counted."""
    items = [pair.item for pair in comparison.of(*FIX_SUITES, guided=True)]
    votes = comparison.votes.principals(items)
    return {
        "max_principal_share": policy.max_principal_share,
        "principals": len(votes),
        "largest": {name: number(count) for name, count in list(votes.items())[:SHOWN_IDS]},
    }


def _suite(comparison: Comparison, suite: Suite) -> dict[str, Any]:
    pairs = [pair for pair in comparison.pairs if pair.live.suite == suite]
    if suite is Suite.DRIFT:
        return {
            "items": len(pairs),
            "candidate_bits_per_token": _json(mean(_present(pair.candidate.bits_per_token for pair in pairs))),
            "live_bits_per_token": _json(mean(_present(pair.live.bits_per_token for pair in pairs))),
        }
    if suite is Suite.TRIGGERS:
        return {"items": len(pairs)}
    return {
        "guided": _counts(comparison.counts(suite), voted=suite in FIX_SUITES),
        "unguided": _counts(comparison.counts(suite, guided=False), voted=suite in FIX_SUITES),
        "candidate_margin": _json(mean(_present(pair.candidate.margin for pair in pairs))),
        "live_margin": _json(mean(_present(pair.live.margin for pair in pairs))),
    }


def _counts(counts: PassCounts, *, voted: bool) -> dict[str, Any]:
    """`voted`: reports, so the passed ones are counted in votes."""
    votes = counts.votes or 1.0
    return {
        "items": len(counts.items),
        **({"votes": number(counts.votes)} if voted else {}),
        "candidate": number(counts.candidate),
        "live": number(counts.live),
        "candidate_rate": counts.candidate / votes,
        "live_rate": counts.live / votes,
    }


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _json(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
