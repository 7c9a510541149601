"""What is known about reports and what the policy says to it: the facts of the store, put before the policy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.labels import Grade
from daemon.parts import Part
from daemon.records import Lesson, Report
from daemon.trust.corroboration import Corroboration, Senders, corroborated
from daemon.trust.policy import Decision, Policy, grade


class Witnesses(Protocol):
    """Who reports what. `daemon.store.witnesses` reads it from the database."""

    def active(self, *, days: int) -> int: ...

    def of_clusters(self, cluster_ids: Collection[int]) -> Mapping[int, Sequence[Part]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One report before the policy. The decisions are None before its analysis."""

    grade: Grade
    trusted: bool
    may_analyse: Decision
    analysis: Decision | None = None
    correction: Decision | None = None
    gate: Decision | None = None

    @property
    def missing(self) -> Decision | None:
        """The decision that keeps the report, or its correction, from being used; None: none does."""
        if self.analysis is None:
            return None if self.may_analyse else self.may_analyse
        if not self.analysis:
            return self.analysis
        return self.correction if self.correction is not None and self.correction.is_missing else None

    @property
    def waits(self) -> str | None:
        """What the report, or its correction, waits for; None: nothing."""
        return None if self.missing is None else self.missing.sentence


class Standings:
    def __init__(self, policy: Policy, witnesses: Witnesses) -> None:
        self.policy = policy
        self._witnesses = witnesses

    def supports(self, lessons: Iterable[tuple[Report, Lesson | None]]) -> dict[str, Corroboration]:
        """What others support, by report id."""
        found = list(lessons)
        config = self.policy.config.corroboration
        active = self._witnesses.active(days=config.active_days)
        senders = Senders(config=config, active=active, trusts=self.policy.trusts)
        clusters = {report.cluster_id for report, _ in found if report.cluster_id is not None}
        voices = self._witnesses.of_clusters(clusters)
        return {
            report.id: corroborated(report, lesson, voices.get(report.cluster_id or 0, ()), senders)
            for report, lesson in found
        }

    def of(self, report: Report, lesson: Lesson | None) -> Standing:
        support = self.supports([(report, lesson)])[report.id]
        policy = self.policy
        shown = grade(report, lesson, support)
        may_analyse, trusted = policy.may_analyse(report), policy.is_trusted(report)
        if lesson is None:
            return Standing(grade=shown, trusted=trusted, may_analyse=may_analyse)
        return Standing(
            grade=shown,
            trusted=trusted,
            may_analyse=may_analyse,
            analysis=policy.trains_analysis(report, lesson, support),
            correction=policy.trains_correction(report, lesson, support),
            gate=policy.counts_in_gate(report, lesson, support),
        )

    def counts_in_gate(self, report: Report, lesson: Lesson | None) -> bool:
        return bool(self.policy.counts_in_gate(report, lesson, self.supports([(report, lesson)])[report.id]))
