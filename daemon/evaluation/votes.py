"""Weighs report items: one vote per principal and cluster, so that sending more reports gives nobody more say.

A principal is who was authenticated. Within an untrusted one, the names of reporters are only claims. So its votes
weigh at most `gate.max_principal_share` of all votes, where others vote, too. Ordinary tasks and probes are the
operator's own: each has a vote, and no report changes that. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from daemon.records import Report

ItemKey = tuple[str, str]
"""Suite and item id: a report may have the id of an ordinary task."""
Group = tuple[str, str, str]
"""Principal and cluster. Items without a voter are groups of their own: suite and item id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voter:
    """Who stands behind the report of an item. `trusted`: the operator vouches for the principal."""

    principal: str
    reporter: str
    cluster: str
    trusted: bool = False

    @property
    def person(self) -> tuple[str, str]:
        """A reporter is known only within its principal."""
        return self.principal, self.reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the configuration says about reports: the seam to the policy of `trust`."""

    counts: Callable[[Report], bool] = lambda _report: True
    """Whether the evidence for a report is enough to count in the gate."""
    confirmed: Callable[[Report], bool] = lambda _report: True
    """Whether its corrected answer may serve as an example of a good one."""
    vouched: Callable[[str], bool] = lambda _principal: False
    """Whether the operator vouches for a principal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """The voters of items, and the bound on a principal's share."""

    voters: Mapping[ItemKey, Voter] = field(default_factory=dict)
    max_share: float = 1.0
    """Largest share of an untrusted principal, if others have at least `min_others` votes."""
    min_others: int = 1

    def group(self, item: ItemKey) -> Group:
        voter = self.voters.get(item)
        return ("", *item) if voter is None else (voter.principal, voter.cluster, "")

    def weights(self, items: Iterable[ItemKey]) -> dict[ItemKey, float]:
        """The weight of each item among these items: its part of its group's vote, lowered where a principal has many.

        The number of votes is their sum.
        """
        groups = {item: self.group(item) for item in items}
        sizes = Counter(groups.values())
        factors = self._factors(sizes)
        return {item: factors.get(group[0], 1.0) / sizes[group] for item, group in groups.items()}

    def principals(self, items: Iterable[ItemKey]) -> dict[str, float]:
        """The number of votes of each principal among these items, the largest first."""
        found: dict[str, float] = defaultdict(float)
        for item, weight in self.weights(items).items():
            if item in self.voters:
                found[self.voters[item].principal] += weight
        return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))

    def _factors(self, groups: Iterable[Group]) -> dict[str, float]:
        """The factor of the votes of each untrusted principal that has more than its share.

        As the share is at least one half, at most one principal has more.
        """
        trusted = {voter.principal for voter in self.voters.values() if voter.trusted}
        owned = Counter(group[0] for group in groups if group[0])
        factors = {}
        for principal, votes in owned.items():
            others = owned.total() - votes
            if principal not in trusted and others >= self.min_others and self.max_share < 1:
                allowed = self.max_share / (1 - self.max_share) * others
                factors[principal] = min(1.0, allowed / votes)
        return factors
