"""The public models of the stored data, shared by the HTTP API, the command line (`--json`) and the console."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from connectors.messages import ChatMessage, Checks, Severity
from daemon.categories import CategorySource
from daemon.config import Config
from daemon.errors import NotFoundError
from daemon.labels import Grade, signal_text
from daemon.left_out import LeftOutReport
from daemon.operations.shown import MeasuredView, RetestView, View, measured_views
from daemon.parts import Analysis, Part
from daemon.records import (
    Adapter,
    Evidence,
    Lesson,
    Report,
    ReportState,
    Run,
    RunItem,
    RunState,
    Split,
    Trigger,
    Verdict,
)
from daemon.report_filter import ShownEvidence
from daemon.store import Store
from daemon.store.rows import history
from daemon.text.merging import SetAside, merged
from daemon.trust.policy import Decision, Policy
from daemon.trust.standing import Standing, Standings


class ReportRow(View):
    """A report in one level: the fields of its message that a list shows, and its channel."""

    id: str
    sent_id: str
    """The id that its principal gave it: the same as `id`, unless another principal used it first."""
    state: ReportState
    state_reason: str | None
    category: str
    """As its sender names it, else the guessed kind of mistake, else "unknown"."""
    category_source: CategorySource
    guessed_by: str | None
    """The analyst that guessed the kind."""
    severity: Severity
    reason: str
    """The reporter's description of the mistake; empty: none was given."""
    follow_up: str | None
    """The user's next message after the flagged answer."""
    principal: str
    """Who was authenticated: a source, token, user or topic."""
    reporter: str
    """Whom the message names, a claim of the principal."""
    tenant: str | None
    model: str
    channel: str
    received_at: datetime
    updated_at: datetime
    attempts: int
    duplicate_of: str | None
    cluster_id: int | None
    resolved_generation: int | None
    evidence: Evidence
    """What is known about whether the model gave the flagged answer."""
    evidence_shown: ShownEvidence
    """The same, but `unchecked` where it was not looked for; the filter `evidence` goes by it."""
    evidence_detail: str | None
    evidence_at: datetime | None
    """When evidence was last looked for; null: not yet."""
    not_trainable: str | None
    """Why no run can ever train on it, such as "message 1 holds an image"."""

    @property
    def category_text(self) -> str:
        """The category as words, such as "wrong-fact (guessed)"."""
        return f"{self.category} (guessed)" if self.category_source is CategorySource.GUESSED else self.category

    @property
    def complaint(self) -> str:
        """The reason, or else the user's next message."""
        return self.reason or self.follow_up or ""

    @property
    def evidence_text(self) -> str:
        """The evidence as words: "reproduced: in 2 of 3 answers of aligned-g000003", or "unchecked: not looked at"."""
        unchecked = self.evidence_shown is ShownEvidence.UNCHECKED
        detail = self.evidence_detail or ("not looked at" if unchecked else "")
        return f"{self.evidence_shown}: {detail}" if detail else self.evidence_shown.value

    @classmethod
    def of(cls, report: Report) -> Self:
        flagged = report.flagged
        return cls(
            id=report.id,
            sent_id=report.sent_id or report.id,
            state=report.state,
            state_reason=report.state_reason,
            category=report.category,
            category_source=report.category_source,
            guessed_by=report.guessed_by,
            severity=flagged.severity,
            reason=flagged.reason,
            follow_up=flagged.follow_up,
            principal=report.source.principal,
            reporter=flagged.reporter,
            tenant=flagged.tenant,
            model=flagged.model,
            channel=report.source.channel,
            received_at=report.received_at,
            updated_at=report.updated_at,
            attempts=report.attempts,
            duplicate_of=report.duplicate_of,
            cluster_id=report.cluster_id,
            resolved_generation=report.resolved_generation,
            evidence=report.evidence,
            evidence_shown=ShownEvidence.of(report.evidence, report.evidence_at),
            evidence_detail=report.evidence_detail,
            evidence_at=report.evidence_at,
            not_trainable=flagged.not_trainable,
        )


class RunRow(View):
    """A run without its folder, which is a path on the disk of the daemon."""

    id: int
    state: RunState
    trigger: Trigger
    requested_by: str
    generation: int
    base_generation: int
    """The live generation at the start of the run."""
    recipe: str
    seed: int
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    reason: str | None
    progress: dict[str, Any]

    @classmethod
    def of(cls, run: Run) -> Self:
        return cls.model_validate(run)


class VerdictView(View):
    """A verdict without the ids, which the generation around it has."""

    accepted: bool
    reasons: list[str]
    figures: dict[str, Any]
    decided_at: datetime

    @classmethod
    def of(cls, verdict: Verdict) -> Self:
        return cls(
            accepted=verdict.accepted,
            reasons=list(verdict.reasons),
            figures=dict(verdict.figures),
            decided_at=verdict.decided_at,
        )


class SameAnswerView(View):
    """The reports of one answer, if there are several or something of them is set aside. They are analysed as one."""

    others: list[Part]
    """What the other reports add, each with its reporter; oldest first."""
    correction_by: str | None
    """The reporter of the user's correction that counts, and its principal."""
    set_aside: list[SetAside]
    """Corrections and rules that are not used, with the reason."""

    @classmethod
    def of(cls, report: Report) -> Self | None:
        said = merged(report)
        if not report.others and not said.set_aside:
            return None
        return cls(
            others=list(report.others),
            correction_by=said.corrections[0].sender if said.corrections else None,
            set_aside=list(said.set_aside),
        )


class DecisionView(View):
    """What the policy `trust` says to one use of a report."""

    allowed: bool
    said: str

    @classmethod
    def of(cls, decision: Decision | None) -> Self | None:
        return None if decision is None else cls(allowed=decision.allowed, said=decision.sentence)


class StandingView(View):
    """What supports a report, and what it may be used for. The decisions are null before its analysis."""

    grade: Grade
    trusted: bool
    """Whether a trusted source reports this answer."""
    waits: str | None
    """What the report, or its correction, waits for."""
    analysis: DecisionView | None
    """Whether a run may train on the analysis."""
    correction: DecisionView | None
    """Whether a run may train on the corrected answer."""
    gate: DecisionView | None
    """Whether the report counts in the gate."""

    @classmethod
    def of(cls, standing: Standing) -> Self:
        return cls(
            grade=standing.grade,
            trusted=standing.trusted,
            waits=standing.waits,
            analysis=DecisionView.of(standing.analysis),
            correction=DecisionView.of(standing.correction),
            gate=DecisionView.of(standing.gate),
        )


class ReportView(View):
    """One report from message to fix."""

    report: ReportRow
    standing: StandingView
    messages: list[ChatMessage]
    response: str
    shown_response: str
    """The flagged answer for people: its text and its tool calls."""
    user_correction: str | None
    checks: Checks | None
    same_answer: SameAnswerView | None
    lesson: Lesson | None
    analyses: list[Analysis]
    """All, oldest first, each with the generation that wrote it. The current ones are targets of the next run."""
    trained_in: list[Adapter]
    left_out: list[LeftOutReport]
    """The latest runs that could not use it, newest first."""
    measured: list[MeasuredView]
    retests: list[RetestView]
    """What each run found out, newest first."""


class GenerationView(View):
    """One generation: its run, its training items, its measurements, and the gate's verdict."""

    adapter: Adapter
    run: RunRow | None
    verdict: VerdictView | None
    trained_on: list[str]
    """Report ids."""
    erased: list[str]
    """Ids of reports whose text was trained on and is erased since."""
    analyses_by: dict[str, int]
    """The analyses that the run found for its reports, by who wrote them."""
    held_out: list[str]
    """Ids of reports that this run measured but did not train on."""
    left_out: list[LeftOutReport]
    """Reports that this run could not use. Near-duplicates and those above a cap are only counted (`run.progress`)."""
    measured: list[MeasuredView]
    """What was not trained on comes first."""
    retests: list[RetestView]


class InductionRow(View):
    """One induction run."""

    id: int
    trigger: Trigger
    requested_by: str
    asked: int
    kept: int
    created_at: datetime
    finished_at: datetime | None
    reason: str | None


def report_view(store: Store, config: Config, report_id: str) -> ReportView:
    """Raises NotFoundError; of feedback that is no report, or none yet, it tells the state."""
    try:
        report = store.reports.get(report_id)
    except NotFoundError:
        signal = store.signals.get(report_id)
        said = signal_text(signal.state, signal.lost)
        raise NotFoundError(
            f"{report_id}, sent by {signal.source.principal}, is no report ({signal.state}): {said}"
        ) from None
    lesson = store.reports.lesson(report_id)
    return ReportView(
        report=ReportRow.of(report),
        standing=StandingView.of(Standings(Policy.of(config), store.witnesses).of(report, lesson)),
        messages=report.messages,
        response=report.flagged.response,
        shown_response=report.flagged.shown_response,
        user_correction=report.flagged.correction,
        checks=report.flagged.checks,
        same_answer=SameAnswerView.of(report),
        lesson=lesson,
        analyses=[] if lesson is None else list(history(lesson)),
        trained_in=store.runs.trained_on(report_id),
        left_out=store.left_out.of_report(report_id),
        measured=measured_views(store, store.runs.answers_to(report_id)),
        retests=[RetestView.model_validate(one) for one in store.retests.of_report(report_id)],
    )


def generation_view(store: Store, generation: int) -> GenerationView:
    """Raises NotFoundError."""
    adapter = store.adapters.get(generation)
    if adapter.run_id is None:
        return GenerationView(
            adapter=adapter,
            run=None,
            verdict=None,
            trained_on=[],
            erased=[],
            analyses_by={},
            held_out=[],
            left_out=[],
            measured=[],
            retests=[],
        )
    run = store.runs.get(adapter.run_id)
    items, verdict = store.runs.items(run.id), store.runs.verdict(run.id)
    return GenerationView(
        adapter=adapter,
        run=RunRow.of(run),
        verdict=None if verdict is None else VerdictView.of(verdict),
        trained_on=[item.report_id for item in items if item.role == Split.TRAIN],
        erased=store.erasures.marked().get(generation, []),
        analyses_by=_writers(store, items, run.created_at),
        held_out=[item.report_id for item in items if item.role == Split.HOLDOUT],
        left_out=store.left_out.of_run(adapter.run_id),
        measured=measured_views(store, store.runs.answers(adapter.run_id)),
        retests=[RetestView.model_validate(one) for one in store.retests.of_run(adapter.run_id)],
    )


def _writers(store: Store, items: Iterable[RunItem], before: datetime) -> dict[str, int]:
    trained = [item.report_id for item in items if item.role == Split.TRAIN]
    written = store.anew.written(trained, before=before)
    return dict(Counter(one.writer for some in written.values() for one in some))


def run_view(store: Store, run_id: int) -> GenerationView:
    """Raises NotFoundError."""
    return generation_view(store, store.runs.get(run_id).generation)
