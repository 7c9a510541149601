"""`/v1/feedback`: submit a report by HTTP, and read its state."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from connectors import messages
from connectors.messages import Identifier
from daemon.config import Config
from daemon.config.web import Role
from daemon.errors import NotFoundError
from daemon.intake.stage import FeedbackIntake
from daemon.labels import GROUND_TEXT, LEFT_OUT_TEXT, SignalState, signal_text
from daemon.left_out import LeftOutReport
from daemon.operations.shown import View
from daemon.records import Evidence, Report, ReportState
from daemon.retest import OUTCOMES
from daemon.store import Added, Signal, Store
from daemon.trust.policy import Decision, Policy
from daemon.trust.standing import Standings
from daemon.web.access import Access, Identity
from daemon.web.dependencies import rate_limited, raw_body, require_caller
from daemon.web.rate_limit import RateLimit


class FeedbackAccepted(View):
    id: str
    outcome: Added


class FeedbackState(View):
    """The state of a report, without its content."""

    id: str
    state: ReportState | SignalState
    said: str
    """The state as a sentence."""
    evidence: Evidence
    """What is known about whether the model gave the flagged answer."""
    fixed_in_generation: int | None
    """The generation that fixed it. Compare it with the `model` field of a chat response."""
    received_at: datetime
    updated_at: datetime


def feedback_router(
    intake: FeedbackIntake, store: Store, access: Access, limit: RateLimit, config: Config
) -> APIRouter:
    router = APIRouter(prefix="/v1/feedback", tags=["feedback"])
    signed_in = Depends(require_caller(access, Role.REPORTER))
    sources, standings = config.sources, Standings(Policy.of(config), store.witnesses)

    @router.post(
        "", status_code=202, openapi_extra=_feedback_body(), dependencies=[Depends(rate_limited(limit, access))]
    )
    def submit(raw: Annotated[bytes, Depends(raw_body)], caller: Identity = signed_in) -> FeedbackAccepted:
        """Report one bad answer, or a good one. It is stored when this returns. Sending the same id again is safe.

        The short form names a completion and what the user said of it; the full form has conversation and answer.
        """
        result = intake.submit(raw, principal=caller.principal(sources))
        return FeedbackAccepted(id=result.report_id, outcome=result.outcome)

    @router.get("/schema", dependencies=[signed_in])
    def schema() -> dict[str, Any]:
        """JSON Schema of the message."""
        return messages.json_schema()

    @router.get("/{report_id:path}")
    def state(report_id: Identifier, caller: Identity = signed_in) -> FeedbackState:
        """The state of a report, by the id under which the caller sent it. Reviewers may ask for any report."""
        try:
            report = fixed = _of_caller(store, caller, caller.principal(sources), report_id)
        except NotFoundError:
            return _signal_state(_signal_of_caller(store, caller, caller.principal(sources), report_id), report_id)
        if report.state == ReportState.DUPLICATE and report.duplicate_of is not None:
            fixed = store.reports.get(report.duplicate_of)
        missing = standings.of(fixed, store.reports.lesson(fixed.id)).missing
        said = state_text(fixed, store.left_out.still(fixed.id), missing)
        if fixed is not report:
            said = f"counted with another report of the same answer: {said}"
        return FeedbackState(
            id=report_id,
            state=report.state,
            said=said,
            evidence=fixed.evidence,
            fixed_in_generation=fixed.resolved_generation if fixed.state == ReportState.RESOLVED else None,
            received_at=report.received_at,
            updated_at=report.updated_at,
        )

    return router


def _of_caller(store: Store, caller: Identity, principal: str, report_id: str) -> Report:
    try:
        return store.reports.sent(principal, report_id)
    except NotFoundError:
        if not caller.role.covers(Role.REVIEWER):
            raise
    return store.reports.get(report_id)


def _signal_of_caller(store: Store, caller: Identity, principal: str, sent_id: str) -> Signal:
    try:
        return store.signals.sent(principal, sent_id)
    except NotFoundError:
        if not caller.role.covers(Role.REVIEWER):
            raise
    return store.signals.get(sent_id)


def _signal_state(signal: Signal, sent_id: str) -> FeedbackState:
    """Of feedback that is no report, or none yet. Nothing of the completion is told."""
    return FeedbackState(
        id=sent_id,
        state=signal.state,
        said=signal_text(signal.state, signal.lost),
        evidence=Evidence.CLAIMED,
        fixed_in_generation=None,
        received_at=signal.received_at,
        updated_at=signal.updated_at,
    )


def _feedback_body() -> dict[str, Any]:
    content = {"schema": messages.json_schema(), "examples": messages.EXAMPLES}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


_STATE_TEXT = {
    ReportState.QUEUED: "received; waiting for analysis",
    ReportState.REFLECTING: "being analysed now",
    ReportState.LESSON: "analysed; waiting for the next training run",
    ReportState.RECURRING: "not fixed: the latest generation measured on it still fails",
    ReportState.IMPROVED: "not fixed, but the live generation makes the mistake less often",
    ReportState.NOT_REPRODUCED: "the live generation did not make the mistake when it was asked again",
    ReportState.DUPLICATE: "duplicate: another report flags the same answer",
    ReportState.QUARANTINED: "set aside for a person to review",
    ReportState.BURIED: "set aside: it could not be analysed",
    ReportState.ERASED: "erased on request",
}


def state_text(report: Report, left_out: LeftOutReport | None = None, missing: Decision | None = None) -> str:
    """The state as a sentence. `left_out`: why the latest run could not use the report.

    `missing`: the decision of `trust` that keeps it, or its correction, from being used. Its detail is not told.
    """
    if report.state == ReportState.RESOLVED:
        return f"fixed in generation {report.resolved_generation}{_counted(report)}"
    if report.state == ReportState.LESSON and report.flagged.not_trainable:
        return f"analysed; not trainable here: {report.flagged.not_trainable}"
    if report.state == ReportState.LESSON and left_out is not None:
        return f"analysed; not trainable with this model and configuration: {LEFT_OUT_TEXT[left_out.reason]}"
    if missing is not None and report.state == ReportState.QUEUED:
        return f"received; {GROUND_TEXT[missing.ground]}"
    if missing is not None and report.state in {ReportState.LESSON, ReportState.RECURRING, ReportState.IMPROVED}:
        return f"{_STATE_TEXT[report.state]}; {GROUND_TEXT[missing.ground]}"
    return f"{_STATE_TEXT[report.state]}{_counted(report)}"


def _counted(report: Report) -> str:
    """The counts of the answers that gave the report its state, as its reason."""
    return f": {report.state_reason}" if report.state in OUTCOMES and report.state_reason else ""
