"""Was the mistake of a report there, and is it gone? Decided from answers of the live generation and of a candidate.

Both are asked as served: with the guidance, first greedily, then with a temperature. Pure. The measurement, the
states of reports, events, console and command line all go by `outcome`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from daemon.records import ReportState

OUTCOMES = (ReportState.RESOLVED, ReportState.IMPROVED, ReportState.NOT_REPRODUCED, ReportState.RECURRING)
MAX_P_VALUE = 0.1
"""For `improved`, one-sided. With 4 answers each, a rise from 0 to 3 good ones reaches it, and no smaller one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """The number of answers of one generation, and of those that are good: by rules or judge, and sound."""

    passed: int
    answers: int

    @property
    def failed(self) -> int:
        return self.answers - self.passed

    def __str__(self) -> str:
        return f"{self.passed} of {self.answers}"


class Side(StrEnum):
    """Whose answers are counted."""

    BEFORE = "before"
    """The live generation's."""
    AFTER = "after"
    """The candidate's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retest:
    """One report, asked again in a run."""

    run_id: int
    report_id: str
    before_passed: int
    before_answers: int
    after_passed: int
    after_answers: int
    outcome: ReportState | None
    """None: too few answers to tell."""

    @classmethod
    def of(cls, run_id: int, report_id: str, before: Passes, after: Passes, *, answers: int) -> Self:
        return cls(
            run_id=run_id,
            report_id=report_id,
            before_passed=before.passed,
            before_answers=before.answers,
            after_passed=after.passed,
            after_answers=after.answers,
            outcome=outcome(before, after, answers=answers),
        )

    @property
    def before(self) -> Passes:
        return Passes(passed=self.before_passed, answers=self.before_answers)

    @property
    def after(self) -> Passes:
        return Passes(passed=self.after_passed, answers=self.after_answers)

    @property
    def counts(self) -> str:
        """Such as "0 of 4 good before, 4 of 4 after"."""
        return f"{self.before} good before, {self.after} after"


def outcome(before: Passes, after: Passes, *, answers: int) -> ReportState | None:
    """The state that a report deserves if the candidate goes live; None: too few answers to tell.

    - `resolved`: live fails at least once, and the candidate passes all `answers`.
    - `not-reproduced`: live passes all `answers`, and the candidate fails none, so no fix is shown.
    - `improved`: the candidate fails at least once, but passes significantly more often than live (Fisher, exact).
    - `recurring`: the candidate fails otherwise, also where live does not.

    Args:
        answers: How many answers of a generation are asked for at most.
    """
    if after.failed:
        enough = min(before.answers, after.answers) >= answers
        better = enough and fisher_p(before, after) <= MAX_P_VALUE
        return ReportState.IMPROVED if better else ReportState.RECURRING
    if before.failed:
        return ReportState.RESOLVED if after.answers >= answers else None
    return ReportState.NOT_REPRODUCED if after.answers and before.answers >= answers else None


def missing(before: Passes, after: Passes, *, answers: int) -> Side | None:
    """Whose further answers could change or give the outcome; None: nobody's.

    A candidate whose only answer fails has fixed nothing, and users get that answer most often: its rate is not
    measured. So the further answers of a report cost nothing where the first ones decide.
    """
    if not before.answers or not after.answers:
        return None
    if after.failed:
        could = before.failed and after.passed and before.answers < answers <= after.answers
        return Side.BEFORE if could else None
    if before.failed:
        return Side.AFTER if after.answers < answers else None
    return Side.BEFORE if before.answers < answers else None


def fisher_p(before: Passes, after: Passes) -> float:
    """One-sided exact test of Fisher: how likely is it that `after` has so many passes if both pass equally often?"""
    passed, total = before.passed + after.passed, before.answers + after.answers
    most = min(passed, after.answers)
    ways = sum(
        math.comb(after.answers, count) * math.comb(before.answers, passed - count)
        for count in range(after.passed, most + 1)
    )
    return ways / math.comb(total, passed)


def tally(retests: Sequence[Retest]) -> dict[str, int]:
    """Counts of the reports of one side. `before` and `after`: those that the arm answers well each time."""
    outcomes = Counter(one.outcome for one in retests)
    return {
        "items": len(retests),
        "fixed": outcomes[ReportState.RESOLVED],
        "before": sum(one.before.answers > 0 and not one.before.failed for one in retests),
        "after": sum(one.after.answers > 0 and not one.after.failed for one in retests),
        "improved": outcomes[ReportState.IMPROVED],
        "not_reproduced": outcomes[ReportState.NOT_REPRODUCED],
        "recurring": outcomes[ReportState.RECURRING],
    }


def tally_text(figures: Mapping[str, Any]) -> str | None:
    """The counts of a verdict in words, held-out reports first; None: it has none."""
    parts = []
    for name, title in (("held_out", "not trained on"), ("trained", "trained on")):
        counts = figures.get(name)
        if not counts or not counts["items"]:
            continue
        more = [f"{counts[key]} {key.replace('_', ' ')}" for key in ("improved", "not_reproduced") if counts[key]]
        fixed = f"{counts['fixed']} of {counts['items']} fixed"
        good = f"always good before: {counts['before']}, after: {counts['after']}"
        parts.append(f"{title}: {', '.join([fixed, *more])} ({good})")
    return "; ".join(parts) or None
