"""Is one generation's rate of bad events higher than another's? A test that stays valid at every look.

Two counts of rare events (flagged answers, errors) over known numbers of requests are taken as Poisson. Given their
sum, the count of one is binomial, with the share of its requests as parameter when the rates are equal: the exact
conditional test of two Poisson rates (Przyborowski and Wilenski, Biometrika 31, 1940). With repeated looks, its p-value
would eventually cross any level. So the likelihood ratio against the null is averaged over a grid of alternatives: a
mixture sequential probability ratio test (Robbins, Ann. Math. Statist. 41, 1970), for counts as in Lindon and Malek,
"Anytime-valid inference for multinomial count data" (NeurIPS 2022, arXiv 2011.03567). Under the null, that average is a
non-negative supermartingale that starts at 1. By Ville's inequality it reaches 1/alpha at any time with probability at
most alpha.

The counts are votes: each voter (`daemon.store.flags`) counts once per window, and voters are taken as independent of
each other. Whoever controls k voters adds at most k events to a side, whatever the traffic: k votes below
`daemon.promotion.voters.votes_needed` alone decide nothing, and hide a rise only where honest votes are as few.

This is exact if the ratio of the two exposures is constant, as in a canary. If the ratio changes (a window before a
promotion against the growing one after it), each look is exact by itself, and simulations in the tests bound all looks
together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RISES = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Alternatives: factors by which the rate is higher than the null allows; all have equal weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Bad events among a number of requests."""

    events: int
    requests: int
    principals: int | None = None
    """Who the events come from, if they are votes of users."""

    def __str__(self) -> str:
        said = f"{self.events} of {self.requests} ({1000 * self.events / max(self.requests, 1):.1f} per 1,000)"
        return said if self.principals is None else f"{said} by {principals(self.principals)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The strength of the counts' evidence against the null: 1 is no evidence, 1/alpha or more is significant."""

    value: float

    @property
    def p_value(self) -> float:
        """Under the null, below alpha with probability at most alpha, over all looks together."""
        return min(1.0, 1.0 / self.value) if self.value > 0 else 1.0

    def significant(self, alpha: float) -> bool:
        return self.value * alpha >= 1.0


def rise(new: Rate, old: Rate, *, tolerance: float = 1.0) -> Evidence:
    """Evidence that the new rate is more than `tolerance` times the old one."""
    return _mixture(new, old, null=tolerance, alternatives=[tolerance * factor for factor in RISES])


def no_rise(new: Rate, old: Rate, *, harm: float) -> Evidence:
    """Evidence that the new rate is less than `harm` times the old one, and so counts as harmless."""
    return _mixture(new, old, null=harm, alternatives=[harm / factor for factor in RISES])


def _mixture(new: Rate, old: Rate, *, null: float, alternatives: Sequence[float]) -> Evidence:
    if not new.requests or not old.requests:
        return Evidence(value=1.0)
    expected = _share(new, old, null)
    ratios = [_log_ratio(new, old, share=_share(new, old, factor), null=expected) for factor in alternatives]
    highest = max(ratios)
    # in logarithms: after a long stream the ratios exceed the range of a float
    log_mean = highest + math.log(math.fsum(math.exp(ratio - highest) for ratio in ratios) / len(ratios))
    return Evidence(value=math.exp(min(log_mean, 700.0)))


def _share(new: Rate, old: Rate, factor: float) -> float:
    """The expected share of all events on the new side, if its rate is `factor` times the old one."""
    weighted = factor * new.requests
    return weighted / (weighted + old.requests)


def _log_ratio(new: Rate, old: Rate, *, share: float, null: float) -> float:
    return new.events * math.log(share / null) + old.events * math.log((1 - share) / (1 - null))


def principals(count: int) -> str:
    """The number with its noun."""
    return f"{count} principal{'' if count == 1 else 's'}"
