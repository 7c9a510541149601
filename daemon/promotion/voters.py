"""Whose flags count in the watch and in a trial, by the policy `trust`, and whether they suffice to see a rise."""

from __future__ import annotations

from datetime import timedelta

from daemon.labels import Grade
from daemon.promotion.sequential import Rate, principals, rise
from daemon.records import Evidence, utcnow
from daemon.store.flags import Electorate, Flags
from daemon.trust.policy import Policy

ACTIVE = timedelta(days=30)
"""Who flagged an answer in this time is expected to do so again."""


def electorate(policy: Policy) -> Electorate:
    """Evidence decides: grades above `verified` need what a watch cannot wait for, so they count as `verified`."""
    needed = policy.config.watch if policy.config.watch in {one.value for one in Evidence} else Grade.VERIFIED
    return Electorate(is_trusted=policy.trusts, evidence=policy.enough(needed).evidence)


def why_blind(flags: Flags, voters: Electorate, *, new: int, old: int, level: float, tolerance: float) -> str | None:
    """Why no rise of the flagged rate can be significant after these numbers of requests; None: one can."""
    found = flags.voters(voters, since=utcnow() - ACTIVE)
    needed = votes_needed(new, old, level=level, tolerance=tolerance)
    if not found.bounded or found.principals >= needed:
        return None
    return (
        f"{principals(found.principals)} without trust flagged answers in {ACTIVE.days} days, each has one vote, and "
        f"fewer than {needed} votes decide nothing: name trusted sources (intake.sources) or keep exchanges"
    )


def votes_needed(new: int, old: int, *, level: float, tolerance: float) -> int:
    """The fewest votes on the new side, with none on the old one, that are significant."""
    votes = 1
    while not rise(Rate(events=votes, requests=new), Rate(events=0, requests=old), tolerance=tolerance).significant(
        level
    ):
        votes += 1
        if votes > new:
            break
    return votes
