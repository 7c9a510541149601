"""Which lessons, and which of their corrections, a run may use: the policy `trust` for all candidates at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.artifacts.examples import ExampleKind
from daemon.dataset.selection import Selection
from daemon.labels import Grade, Ground, LeftOut
from daemon.records import Cluster, Lesson, Report, Split
from daemon.trust.policy import grade
from daemon.trust.standing import Standings

REASONS: Mapping[Ground, LeftOut] = {
    Ground.NEEDS_EVIDENCE: LeftOut.NEEDS_EVIDENCE,
    Ground.NEEDS_CONFIRMATION: LeftOut.NEEDS_CONFIRMATION,
    Ground.NEEDS_REVIEW: LeftOut.NEEDS_REVIEW,
    Ground.UNEXPLAINED: LeftOut.UNEXPLAINED,
    Ground.UNCLEAN: LeftOut.UNCLEAN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """The lessons that a run may use, each without its correction unless that may be trained, too."""

    lessons: tuple[tuple[Report, Lesson], ...]
    left_out: Mapping[LeftOut, int]
    corrections_left_out: Mapping[LeftOut, int]
    """Corrections that wait, of lessons that are used."""
    grades: Mapping[str, Grade]
    """By report id."""
    vouched: frozenset[str]
    """Ids of reports of which a teacher may be made."""
    skipped: frozenset[str]
    """Ids of reports that lack what others need, and are used because their source is trusted."""


def permits(
    candidates: Sequence[tuple[Report, Lesson]], assigned: Mapping[str, Cluster], standings: Standings
) -> Permits:
    """Ask the policy for each lesson. One on the holdout side is measured only, so it must count in the gate."""
    placed = [(replace(report, cluster_id=assigned[report.id].id), lesson) for report, lesson in candidates]
    supports = standings.supports(placed)
    lessons: list[tuple[Report, Lesson]] = []
    left_out: Counter[LeftOut] = Counter()
    corrections: Counter[LeftOut] = Counter()
    skipped = set()
    for report, lesson in candidates:
        support = supports[report.id]
        permitted = standings.policy.decide(report, lesson, support)
        needed = permitted.analysis
        if assigned[report.id].split is Split.HOLDOUT:
            needed = standings.policy.counts_in_gate(report, lesson, support)
        if not needed:
            left_out[REASONS[needed.ground]] += 1
            continue
        lessons.append((report, permitted.usable))
        if Ground.TRUSTED_SOURCE in {needed.ground, permitted.correction.ground}:
            skipped.add(report.id)
        if permitted.correction.is_missing:
            corrections[REASONS[permitted.correction.ground]] += 1
    return Permits(
        lessons=tuple(lessons),
        left_out=left_out,
        corrections_left_out=corrections,
        grades={report.id: grade(report, lesson, supports[report.id]) for report, lesson in lessons},
        vouched=frozenset(report.id for report, lesson in lessons if standings.policy.vouches(report, lesson)),
        skipped=frozenset(skipped),
    )


def with_account(
    selection: Selection, permitted: Permits, *, never_came: Mapping[LeftOut, int], unvouched: Collection[str]
) -> Selection:
    """The selection with its grades, and with the counts of what never came to it.

    Args:
        unvouched: Ids of reports without the teacher that their recipe has: nobody vouches for what it is made of.
    """
    left_out = Counter({**permitted.left_out, **never_came}) + Counter(selection.left_out)
    waiting = {
        ExampleKind.CORRECTION.value: Counter(permitted.corrections_left_out),
        ExampleKind.TAUGHT.value: Counter(LeftOut.UNVOUCHED for one in selection.train if one.report.id in unvouched),
    }
    dropped = {kind: found + Counter(selection.dropped.get(kind, {})) for kind, found in waiting.items()}
    chosen = [one.report for one in (*selection.train, *selection.holdout)]
    return replace(
        selection,
        left_out=dict(left_out),
        dropped={**selection.dropped, **{kind: dict(found) for kind, found in dropped.items() if found}},
        grades=Counter(permitted.grades[report.id] for report in chosen),
        skipped=Counter(report.source.principal for report in chosen if report.id in permitted.skipped),
    )
