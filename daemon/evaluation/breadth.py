"""Whether a result rests on one voice: no single source or reporter carries a candidate, and none vetoes one. Pure.

Sources are principals. One that the operator vouches for is left out only reporter by reporter. Mistakes that erratad
provoked itself are nobody's voice: they neither carry a candidate nor speak against what others report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

from daemon.evaluation.votes import ItemKey, Voter, Votes
from daemon.records import INDUCED

COLLUDING = 3
"""One in so many principals, rounded up, may agree to carry a candidate: without them it must still be better."""
_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What is left of a gain without some voices, as a share of all votes. `without` names them."""

    gain: float
    without: str = ""


def shared_gain(changes: Mapping[ItemKey, float], items: Iterable[ItemKey], votes: Votes) -> Rest | None:
    """The smaller gain of two: without the untrusted principals with most fixes, and without the best reporter.

    None if there is only one voice. Voices whose absence would leave fewer than `Votes.min_others` votes are not left
    out: nobody else is there to judge by.

    Args:
        changes: By how much each item changes the votes passed.
        items: All items that could change.
    """
    voices = _Voices(changes, list(items), votes)
    rests = [rest for rest in (voices.without_principals(), voices.without_person()) if rest is not None]
    return min(rests, key=lambda rest: rest.gain) if rests else None


def gain_without_a_veto(changes: Mapping[ItemKey, float], items: Iterable[ItemKey], votes: Votes) -> Rest:
    """The gain without the one untrusted principal, or the one reporter, that lost most.

    A voice with half of the votes or more is never left out.
    """
    voices = _Voices(changes, list(items), votes)
    worst = [
        Rest(gain=voices.gain - change / voices.total, without=_named(name))
        for weights, sums in (voices.principals, voices.persons)
        for name, change in sums.items()
        if weights[name] < _HALF * voices.reported
    ]
    return max([Rest(gain=voices.gain), *worst], key=lambda rest: rest.gain)


class _Voices:
    """The weight and the change of each principal and reporter, over the items with a voter."""

    def __init__(self, changes: Mapping[ItemKey, float], items: list[ItemKey], votes: Votes) -> None:
        self._changes = changes
        self._weights = votes.weights(items)
        found = {item: votes.voters[item] for item in items if item in votes.voters}
        self._voters = {item: voter for item, voter in found.items() if voter.principal != INDUCED}
        self._min_others = votes.min_others
        self.total = math.fsum(self._weights.values()) or 1.0
        self.reported = math.fsum(self._weights[item] for item in self._voters)
        self.gain = math.fsum(changes.values()) / self.total
        self._trusted = {voter.principal for voter in self._voters.values() if voter.trusted}
        self._by_principal = self._sums(lambda voter: voter.principal)
        self.persons = self._sums(lambda voter: voter.person)

    @property
    def principals(self) -> tuple[Mapping[Hashable, float], Mapping[Hashable, float]]:
        """Of the untrusted ones; none if only one principal has votes."""
        weights, sums = self._by_principal
        several = len(weights) > 1
        return weights, {name: change for name, change in sums.items() if several and name not in self._trusted}

    def without_principals(self) -> Rest | None:
        weights, sums = self.principals
        few = [name for name in sums if self.reported - weights[name] >= self._min_others]
        most = min(math.ceil(len(weights) / COLLUDING), len(few))
        heaviest = sorted((weights[name] for name in few), reverse=True)
        while most and self.reported - sum(heaviest[:most]) < self._min_others:
            most -= 1
        if not most:
            return None
        best = [name for name in sorted(few, key=lambda one: (-sums[one], str(one)))[:most] if sums[name] > 0]
        gain = self.gain - sum(sums[name] for name in best) / self.total
        return Rest(gain=gain, without=", ".join(map(str, best)) or "nobody")

    def without_person(self) -> Rest | None:
        weights, sums = self.persons
        heavy = min(_HALF * self.reported, self.reported - self._min_others)
        few = [name for name in sums if weights[name] <= heavy]
        if not few:
            return None
        gain = self.gain - max(0.0, *(sums[name] for name in few)) / self.total
        return Rest(gain=gain, without="the reporter with most fixes")

    def _sums(self, of: Callable[[Voter], Hashable]) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
        weights: dict[Hashable, float] = defaultdict(float)
        sums: dict[Hashable, float] = defaultdict(float)
        for item, voter in self._voters.items():
            weights[of(voter)] += self._weights[item]
            sums[of(voter)] += self._changes.get(item, 0.0)
        return dict(weights), dict(sums)


def _named(voice: Hashable) -> str:
    """The name of a source; reporters are people, so they are not named."""
    return voice if isinstance(voice, str) else "one reporter"
