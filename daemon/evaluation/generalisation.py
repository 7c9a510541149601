"""Does the candidate do better on what it was not trained on? Else it may only have memorised its lessons."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from daemon.config.evaluation import GatePolicy
from daemon.evaluation.comparison import Comparison, exact_p
from daemon.evaluation.finding import Finding, at_least, number, votes_of
from daemon.labels import Criterion, Suite


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out side in votes: gained and lost, and whether this shows that the candidate generalises."""

    items: int
    votes: float
    gained: int
    lost: int
    p_value: float
    """Exact McNemar (or sign test over margins), one-sided."""
    enough: bool
    shown: bool
    memorised: bool
    """Whether it gains on what it was trained on."""
    said: str

    @property
    def figures(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "said"}


def held_out(comparison: Comparison, policy: GatePolicy, *, by_margin: bool) -> HeldOut:
    """`by_margin`: likelihood margins decide, because too few reports have checks."""
    if by_margin:
        margins = comparison.margins(Suite.HOLDOUT)
        items, votes = len(margins.items), float(margins.votes)
        gained, lost = sum(gain > 0 for gain in margins.by_vote), sum(gain < 0 for gain in margins.by_vote)
        said = f"of {votes_of(margins, 'held-out items')}, {gained} margins rose and {lost} fell"
        trained = comparison.margins(Suite.FLAGGED).mean or 0.0
    else:
        counts = comparison.counts(Suite.HOLDOUT)
        items, votes, gained, lost = len(counts.items), counts.votes, counts.votes_gained, counts.votes_lost
        passed = f"passes {number(counts.candidate)} of {votes_of(counts, 'held-out items')}"
        said = f"{passed}, live {number(counts.live)}: {gained} gained, {lost} lost"
        trained = comparison.counts(Suite.FLAGGED).gain
    p_value = exact_p(gained, lost)
    enough = at_least(votes, policy.min_holdout_items)
    return HeldOut(
        items=items,
        votes=votes,
        gained=gained,
        lost=lost,
        p_value=p_value,
        enough=enough,
        shown=enough and at_least(policy.max_holdout_p_value, p_value),
        memorised=trained > 0,
        said=said,
    )


def generalisation(found: HeldOut, policy: GatePolicy) -> Finding:
    """Only `gate.require_generalisation` makes this a rejection: most runs hold out too few reports to show it."""
    said = f"not trained on: {found.said}" if found.items else "no held-out item was measured"
    tested = f"McNemar p = {found.p_value:.2g} (exact, one-sided)"
    verdict = "memorised, not shown to generalise" if found.memorised else "not shown to generalise"
    if found.shown:
        sentence = f"{said}, {tested}: it generalises"
    elif found.enough:
        sentence = f"{verdict}: {said}, {tested}, at most {policy.max_holdout_p_value:g} needed"
    else:
        sentence = f"{verdict}: {said}; at least {policy.min_holdout_items} held-out votes would be needed to tell"
    holds = found.shown or not policy.require_generalisation
    return Finding(criterion=Criterion.GENERALISATION, holds=holds, sentence=sentence)
