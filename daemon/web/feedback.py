"""`POST /v1/feedback`: reports by HTTP, and the state of a report for the one who sent it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from connectors import messages
from connectors.messages import Identifier
from daemon.intake.stage import FeedbackIntake
from daemon.operations.views import View
from daemon.records import Report, ReportState
from daemon.store import Added, Store
from daemon.web.access import Access
from daemon.web.dependencies import within
from daemon.web.rate_limit import RateLimit


class FeedbackAccepted(View):
    id: str
    outcome: Added


class FeedbackState(View):
    """Where a report stands, for the one who sent it; without content."""

    id: str
    state: ReportState
    said: str
    """The state in words."""
    fixed_in_generation: int | None
    """The generation that answers it well; the `model` field of answers names the generation."""
    received_at: datetime
    updated_at: datetime


def _feedback(intake: FeedbackIntake, store: Store, access: Access, limit: RateLimit) -> APIRouter:
    router = APIRouter(prefix="/v1/feedback", tags=["feedback"])

    @router.post("", status_code=202, openapi_extra=_feedback_body(), dependencies=[Depends(within(limit, access))])
    def submit(raw: Annotated[bytes, Depends(_raw_body)]) -> FeedbackAccepted:
        """Report one bad response. Stored when this returns; the same id may be sent again."""
        result = intake.submit(raw)
        return FeedbackAccepted(id=result.report_id, outcome=result.outcome)

    @router.get("/schema")
    def schema() -> dict[str, Any]:
        """JSON Schema of the message."""
        return messages.json_schema()

    @router.get("/{report_id:path}")
    def state(report_id: Identifier) -> FeedbackState:
        """Where a report stands."""
        report = store.reports.get(report_id)
        resolved = report.state == ReportState.RESOLVED
        return FeedbackState(
            id=report.id,
            state=report.state,
            said=in_words(report),
            fixed_in_generation=report.resolved_generation if resolved else None,
            received_at=report.received_at,
            updated_at=report.updated_at,
        )

    return router


async def _raw_body(request: Request) -> bytes:
    """The body as it came (Guard bounds it while it arrives); the door decodes it as it does Kafka records."""
    return await request.body()


def _feedback_body() -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": messages.json_schema()}}}}


_WORDS = {
    ReportState.QUEUED: "received; it waits for its analysis",
    ReportState.REFLECTING: "being analysed now",
    ReportState.LESSON: "understood; it waits for the next training",
    ReportState.RECURRING: "not fixed: the latest generation that was measured on it still answers badly",
    ReportState.DUPLICATE: "known already: another report flags the same answer",
    ReportState.QUARANTINED: "set aside for a person to review",
    ReportState.BURIED: "set aside: it could not be analysed",
    ReportState.ERASED: "erased on request",
}


def in_words(report: Report) -> str:
    if report.state == ReportState.RESOLVED:
        return f"fixed in generation {report.resolved_generation}"
    return _WORDS[report.state]
