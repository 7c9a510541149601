"""The policy `trust`: may a report be analysed, train an analysis, train its correction, count in the gate?

What counts: the evidence that the model gave the flagged answer (`Report.evidence`), corroboration by other senders
(`daemon.trust.corroboration`), a judge that prefers the correction, the review of a person, and trusted sources, whose
reports skip the evidence. The content of a text is checked for everybody: no grade makes a bad text a good one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from connectors.messages.shapes import is_blank
from daemon.adapter_names import is_generation
from daemon.config import Config
from daemon.config.sources import Sources
from daemon.config.trust import TrustConfig
from daemon.labels import GROUND_TEXT, Grade, Ground
from daemon.records import INDUCED, TEMPLATE_ANALYST, TRUSTED_IMPORT, CorrectionSource, Evidence, Lesson, Report
from daemon.text.content import content_fault
from daemon.trust.corroboration import UNSUPPORTED, Corroboration

ANNOTATED = frozenset({INDUCED, TRUSTED_IMPORT})
"""Principals whose rules and corrections are the operator's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether something may be used, and why."""

    allowed: bool
    ground: Ground
    detail: str | None = None

    @property
    def sentence(self) -> str:
        return GROUND_TEXT[self.ground] + (f": {self.detail}" if self.detail else "")

    @property
    def is_missing(self) -> bool:
        """Whether there is something that may not be used, yet or at all."""
        return not self.allowed and self.ground is not Ground.NO_CORRECTION

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The names under which the servers answer."""

    alias: str
    base: str

    def __contains__(self, name: str) -> bool:
        return name in {self.alias, self.base} or is_generation(name, self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enough:
    """What suffices for a step whatever others report: some evidence, or one of the trusted principals."""

    evidence: frozenset[Evidence]
    principals: frozenset[str]
    models: Models | None = None
    """Of the principals, other than the operator's own, only reports about these count; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permitted:
    """What a run may use of a lesson. `usable` is the lesson without the correction, unless that may be trained."""

    usable: Lesson
    analysis: Decision
    correction: Decision


def grade(report: Report, lesson: Lesson | None = None, support: Corroboration = UNSUPPORTED) -> Grade:
    """The grade shown for a report: the highest that it reaches. A trusted source is none: see `Policy.is_trusted`."""
    if lesson is not None and lesson.reviewed_by is not None:
        return Grade.REVIEWED
    return Grade.CORROBORATED if support.mistake else Grade(report.evidence.value)


def is_unexplained(report: Report) -> bool:
    """Whether it is a bare thumbs-down: no report of its answer says anything about the mistake."""
    return report.flagged.category is None and not any(part.content for part in report.parts)


class Policy:
    """Decides by the configuration. `trusted`: the principals for which the operator vouches.

    erratad asked for the answers that it induced itself, so it vouches for them. A source's word is not enough for a
    report about another model than `models`: its mistake may be none of this model.
    """

    def __init__(self, config: TrustConfig, *, trusted: Iterable[str] = (), models: Models | None = None) -> None:
        self.config = config
        self.trusted = frozenset(trusted) | ANNOTATED
        self.models = models

    @classmethod
    def of(cls, config: Config) -> Self:
        models = Models(alias=config.serving.alias, base=config.serving.base_name)
        return cls(config.trust, trusted=Sources(config.intake).trusted, models=models)

    def trusts(self, principal: str) -> bool:
        """Whether the operator vouches for a principal."""
        return principal in self.trusted

    def enough(self, needed: Grade) -> Enough:
        """What suffices for a step that needs this grade."""
        evidence = frozenset(found for found in Evidence if Grade(found.value).reaches(needed))
        principals = frozenset() if needed is Grade.REVIEWED else self.trusted
        return Enough(evidence=evidence, principals=principals, models=self.models)

    def is_trusted(self, report: Report) -> bool:
        """Whether a trusted source reports this answer."""
        return any(self.trusts(part.principal) for part in report.parts)

    def may_analyse(self, report: Report) -> Decision:
        """Reports of the same answer count, corrections do not: there is no cluster yet."""
        return self._reaches(self.config.analyse, report, None, UNSUPPORTED)

    def trains_analysis(self, report: Report, lesson: Lesson, support: Corroboration = UNSUPPORTED) -> Decision:
        decision = self._explained(report, lesson, support)
        if decision is None:
            decision = self._reaches(self.config.train_analysis, report, lesson, support)
        return _clean(decision, lesson.analysis, report)

    def stands_behind(self, report: Report, correction: str) -> bool:
        """Whether a user's correction needs no confirmation by anybody else, by who gave it."""
        if self.config.train_correction is Grade.REVIEWED:
            return False
        owners = {part.principal for part in report.parts if part.correction == correction}
        return bool(self._vouched(owners))

    def trains_correction(self, report: Report, lesson: Lesson, support: Corroboration = UNSUPPORTED) -> Decision:
        """Whether the corrected answer may be a target: evidence, a confirmation of the text, and clean content."""
        if lesson.correction is None or is_blank(lesson.correction):
            return _refused(Ground.NO_CORRECTION)
        # corroboration does not show that the model gave the answer
        decision = self._reaches(self.config.train_correction, report, lesson, UNSUPPORTED)
        if decision and decision.ground is not Ground.REVIEWED:
            decision = self._confirmed(report, lesson, support)
        return _clean(decision, lesson.correction, report)

    def vouches(self, report: Report, lesson: Lesson) -> bool:
        """Whether a teacher may be made of what a report says: its rules, its named span, its complaint.

        They decide what answers become, as a correction does. But no judge or other sender confirms them, so only a
        reviewer or a source that needs no confirmation makes them usable.
        """
        decision = self._reaches(self.config.train_correction, report, lesson, UNSUPPORTED)
        return bool(decision) and (decision.ground is Ground.REVIEWED or bool(self._vouched({report.source.principal})))

    def needs_confirmation(self, report: Report, lesson: Lesson) -> bool:
        """Whether a judge's preference would decide about the correction: nobody else stands behind it by now."""
        if lesson.correction is None or self.config.train_correction is Grade.REVIEWED:
            return False
        return not self._confirmed(report, lesson, UNSUPPORTED)

    def counts_in_gate(
        self, report: Report, lesson: Lesson | None = None, support: Corroboration = UNSUPPORTED
    ) -> Decision:
        decision = self._explained(report, lesson, support)
        return self._reaches(self.config.gate, report, lesson, support) if decision is None else decision

    def decide(self, report: Report, lesson: Lesson, support: Corroboration = UNSUPPORTED) -> Permitted:
        """What a run may use of this lesson."""
        correction = self.trains_correction(report, lesson, support)
        clean = tuple(one for one in lesson.analyses if content_fault(one.text, report.flagged) is None)
        lesson = replace(lesson, analyses=clean)
        return Permitted(
            usable=lesson if correction else replace(lesson, correction=None, correction_source=None),
            analysis=self.trains_analysis(report, lesson, support),
            correction=correction,
        )

    def _reaches(self, needed: Grade, report: Report, lesson: Lesson | None, support: Corroboration) -> Decision:
        reached = grade(report, lesson, support)
        if reached is Grade.REVIEWED:
            return _granted(Ground.REVIEWED)
        if needed is Grade.REVIEWED:  # a trusted source is no review
            return _refused(Ground.NEEDS_REVIEW)
        if reached.reaches(needed):
            return _granted(Ground.EVIDENCE)
        if self.is_trusted(report) and reached is not Grade.CONTRADICTED:
            if self._is_about_this_model(report):
                return _granted(Ground.TRUSTED_SOURCE)
            return _refused(Ground.NEEDS_EVIDENCE, f"it names the model {report.flagged.model!r}, not served here")
        return _refused(Ground.NEEDS_EVIDENCE, report.evidence_detail)

    def _is_about_this_model(self, report: Report) -> bool:
        owned = any(part.principal in ANNOTATED for part in report.parts)
        return owned or self.models is None or report.flagged.model in self.models

    def _explained(self, report: Report, lesson: Lesson | None, support: Corroboration) -> Decision | None:
        """The refusal of a bare thumbs-down that too few support; None: something says what is wrong, or enough do.

        The analysis is the model's guess then. A trusted source does not make it a better one, and a template knows
        nothing at all.
        """
        reached = grade(report, lesson, support)
        if not is_unexplained(report) or reached is Grade.REVIEWED:
            return None
        written = lesson is None or lesson.analyst != TEMPLATE_ANALYST
        if written and reached.reaches(self.config.train_unexplained):
            return None
        return _refused(Ground.UNEXPLAINED)

    def _confirmed(self, report: Report, lesson: Lesson, support: Corroboration) -> Decision:
        """Who stands behind the text of the correction."""
        proposed_by_analyst = lesson.correction_source is CorrectionSource.ANALYST
        if support.correction or lesson.judged_better or proposed_by_analyst:
            return _granted(Ground.CONFIRMED)
        return self._vouched(self._owners(report, lesson))

    def _vouched(self, owners: set[str]) -> Decision:
        """Whether those who gave a correction need nobody to confirm it."""
        vouched = self.config.confirm_corrections == "untrusted" and any(self.trusts(owner) for owner in owners)
        if vouched or owners & ANNOTATED:
            return _granted(Ground.TRUSTED_SOURCE)
        needed = self.config.confirm_corrections != "never"
        return _refused(Ground.NEEDS_CONFIRMATION) if needed else _granted(Ground.EVIDENCE)

    def _owners(self, report: Report, lesson: Lesson) -> set[str]:
        """Who gave the correction; who reported the answer, if the model corrected it itself."""
        by_users = lesson.correction_source is CorrectionSource.USER
        parts = [part for part in report.parts if part.correction == lesson.correction or not by_users]
        return {part.principal for part in parts}


def _granted(ground: Ground) -> Decision:
    return Decision(allowed=True, ground=ground)


def _refused(ground: Ground, detail: str | None = None) -> Decision:
    return Decision(allowed=False, ground=ground, detail=detail)


def _clean(decision: Decision, text: str, report: Report) -> Decision:
    finding = content_fault(text, report.flagged) if decision else None
    return decision if finding is None else _refused(Ground.UNCLEAN, finding.sentence)
