"""The strength sweep: which strengths of a candidate are measured, and which one goes live. Pure.

A weaker adapter fixes less and harms less. Strengths are measured from the trained one down. A weaker one is worth its
measurement if the last one passed, or failed only by what a smaller change can mend. The weakest that passes is chosen.
It must keep most of what the strongest passing one gains: else a hardly changed model would always win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.config.evaluation import GatePolicy
from daemon.evaluation.finding import Finding, at_least, percent
from daemon.evaluation.gate import Decision
from daemon.labels import Criterion
from daemon.records import Adapter

MENDABLE = frozenset(
    {
        Criterion.HOLDOUT,
        Criterion.NEGATIVE_FLIPS,
        Criterion.RETENTION,
        Criterion.DRIFT,
        Criterion.UNGUIDED,
        Criterion.OVER_REFUSAL,
        Criterion.ATTACKS,
        Criterion.UNDER_ATTACK,
        Criterion.PRAISED,
    }
)
"""What a smaller change may mend. Planted texts are not among them: diluted, they would only be harder to see."""
GAIN = frozenset(
    {
        Criterion.GENERALISATION,
        Criterion.FIX_GAIN,
        Criterion.MARGIN_GAIN,
        Criterion.SIGNIFICANCE,
        Criterion.SHARED_GAIN,
        Criterion.KEPT_GAIN,
    }
)
"""Criteria that reports alone decide. If one fails, the other suites need not be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One strength and the gate's decision on it. `adapter` has the name and the folder of that strength."""

    strength: float
    adapter: Adapter
    decision: Decision
    kl_to_base: float | None = None
    whole: bool = True
    """False: only the reports were asked, because they decided."""

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "name": self.adapter.name,
            "accepted": self.decision.accepted,
            "gain": gain_of(self.decision),
            "kl_to_base": self.kl_to_base,
            "all_suites": self.whole,
            "reasons": [finding.sentence for finding in self.decision.failed],
        }

    def __str__(self) -> str:
        if self.decision.accepted:
            return f"{self.strength:g} passes"
        return f"{self.strength:g} fails ({', '.join(finding.criterion.value for finding in self.decision.failed)})"


def goes_on(tried: Sequence[Tried]) -> bool:
    """Whether the next weaker strength is worth its measurement."""
    last = tried[-1].decision
    if last.accepted:
        return True
    return all(finding.criterion in MENDABLE for finding in last.failed) and not any(
        one.decision.accepted for one in tried
    )


def chosen(tried: Sequence[Tried]) -> Tried:
    """The weakest that passes; without one, the strongest."""
    passing = [one for one in tried if one.decision.accepted]
    return passing[-1] if passing else tried[0]


def with_kept_gain(decision: Decision, before: Sequence[Tried], policy: GatePolicy) -> Decision:
    """The decision on a weaker strength, which must keep most of the gain of the strongest that passes."""
    full = next((gain_of(one.decision) for one in before if one.decision.accepted), None)
    if full is None:
        return decision
    gain = gain_of(decision)
    sentence = (
        f"keeps {gain:.3g} of the gain of {full:.3g} at the strongest strength that passes, at least "
        f"{percent(policy.min_kept_gain)} needed"
    )
    holds = at_least(gain, policy.min_kept_gain * full)
    return decision.also(Finding(criterion=Criterion.KEPT_GAIN, holds=holds, sentence=sentence))


def gain_of(decision: Decision) -> float:
    """The rise of the share of fixed votes, or of the margin where margins decide."""
    if decision.figures["decided_by"] == "margin":
        return float(decision.figures["margin_gain"] or 0.0)
    fixes = decision.figures["fixes"]
    return float((fixes["candidate"] - fixes["live"]) / (fixes["votes"] or 1.0))


def sweep_figures(tried: Sequence[Tried]) -> dict[str, Any]:
    """What a verdict and the events say of the strengths."""
    best = chosen(tried)
    return {
        "strength": best.strength,
        "kl_to_base": best.kl_to_base,
        "strengths": [one.figures for one in tried],
    }


def sweep_sentences(tried: Sequence[Tried]) -> tuple[str, ...]:
    """One more reason of a verdict where several strengths were measured."""
    if len(tried) == 1:
        return ()
    best = chosen(tried)
    said = f"strength {best.strength:g} is the weakest that passes" if best.decision.accepted else "no strength passes"
    return (f"{said}: {'; '.join(map(str, tried))}",)
