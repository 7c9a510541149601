"""Whose flags count in the watch and in a trial, by the policy `trust`, and whether they suffice to see a rise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from daemon.labels import Grade, Names
from daemon.promotion.sequential import Rate, principals, rise
from daemon.records import Evidence, utcnow
from daemon.store.flags import Electorate, Flags
from daemon.trust.policy import Policy

ACTIVE = timedelta(days=30)
"""Who flagged an answer in this time is expected to do so again."""
MAX_SHARE = 0.5
"""Of the votes that decide, for a principal without trust: as `gate.max_principal_share`."""

MIN_NAMING = 0.5
"""Of the recent reports: the share that names a generation."""


def electorate(policy: Policy) -> Electorate:
    """Evidence decides: grades above `verified` need what a watch cannot wait for, so they count as `verified`."""
    needed = policy.config.watch if policy.config.watch in {one.value for one in Evidence} else Grade.VERIFIED
    return Electorate(is_trusted=policy.trusts, evidence=policy.enough(needed).evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What the votes of a window can amount to."""

    needed: int
    """The fewest votes on the new side that decide."""
    most: int | None
    """Votes of a principal without trust; None: it is the only one that flags answers, so nothing bounds it."""
    blind: str | None
    """Why no rise of the flagged rate can be significant; None: one can."""


def bound(flags: Flags, voters: Electorate, *, new: int, old: int, level: float, tolerance: float) -> Bound:
    """The bounds of the votes after these numbers of requests: no principal without trust decides against others."""
    found = flags.voters(voters, since=utcnow() - ACTIVE)
    needed = votes_needed(new, old, level=level, tolerance=tolerance)
    most = max(1, int(MAX_SHARE * needed)) if found.principals > 1 else None
    unbounded = found.trusted or (most is None and found.recorded)
    possible = found.principals + found.recorded * ((most or 1) - 1)
    if unbounded or possible >= needed:
        return Bound(needed=needed, most=most, blind=nameless(flags))
    each = "each has one vote" if not found.recorded else f"each has one vote, or {most} with recorded answers"
    blind = (
        f"{principals(found.principals)} without trust flagged answers in {ACTIVE.days} days, {each}, and "
        f"fewer than {needed} votes decide nothing: name trusted sources (intake.sources) or keep exchanges"
    )
    return Bound(needed=needed, most=most, blind=blind)


def nameless(flags: Flags) -> str | None:
    """Why the flags of all generations are too few: most reports name none. None: enough do."""
    found = flags.named()
    total = sum(found.values())
    if found[Names.GENERATION] >= MIN_NAMING * total:
        return None
    return f"{total - found[Names.GENERATION]} of the last day's {total} reports name no generation of this model"


def votes_needed(new: int, old: int, *, level: float, tolerance: float) -> int:
    """The fewest votes on the new side, with none on the old one, that are significant."""
    votes, quiet = 1, Rate(events=0, requests=old)
    while votes <= new and not rise(Rate(events=votes, requests=new), quiet, tolerance=tolerance).significant(level):
        votes += 1
    return votes
