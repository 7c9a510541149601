"""The HTTP surface: feedback from chat backends, probes and metrics; `api_operators` and `console` add their parts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from connectors import messages
from connectors.messages import Identifier, MessageRejected, Rejection
from daemon import __version__
from daemon.config import Config
from daemon.config.web import Role
from daemon.errors import ErratadError, IllegalTransitionError, NotFoundError, StoreUnavailableError
from daemon.intake.stage import FeedbackDoor
from daemon.operations.health import Health
from daemon.operations.views import View
from daemon.records import ReportState
from daemon.store import Added, Store
from daemon.web.access import Access
from daemon.web.console import console_router
from daemon.web.dependencies import calls, within
from daemon.web.guard import Guard, Refusal, allowed_hosts, refuse
from daemon.web.operators import operators_router
from daemon.web.rate_limit import RateLimit
from daemon.web.report_words import in_words

RETRY_AFTER_S = 2
_REJECTED_STATUS = {Rejection.OVERSIZED: 413, Rejection.CONFLICT: 409}
_ERROR_STATUS: dict[type[ErratadError], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    IllegalTransitionError: (409, "illegal_transition"),
    StoreUnavailableError: (503, "store_unavailable"),
}
_REASONS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "oversized",
    429: "too_many_requests",
}


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


class LiveView(View):
    alive: bool
    stalled: list[str]
    """Stages that made no step for `http.max_stall_s`."""


class ReadyView(View):
    ready: bool
    missing: list[str]


def create_app(*, store: Store, door: FeedbackDoor, config: Config, health: Health) -> FastAPI:
    """The whole HTTP surface; raises ConfigError for a token or key of `http` that cannot be had."""
    access = Access.of(config.http)
    app = FastAPI(
        title="erratad",
        version=__version__,
        summary="Feedback on a served chat model in; reports, runs and adapters out.",
        docs_url=None,  # both pages load scripts from a public CDN
        redoc_url=None,
        responses={"default": {"model": Refusal, "description": "What was wrong, and what to do."}},
    )
    app.add_middleware(
        Guard,
        max_body_bytes=config.intake.max_message_bytes,
        allowed_hosts=allowed_hosts(config.http.host, config.http.allowed_hosts),
    )
    _explain_errors(app)
    app.include_router(_probes(health))
    limit = RateLimit(config.http.feedback_per_minute)
    app.include_router(_feedback(door, store, access, limit), dependencies=[Depends(calls(access, Role.REPORTER))])
    app.include_router(operators_router(store, config, access))
    app.include_router(console_router(store, config, access))
    return app


def _feedback(door: FeedbackDoor, store: Store, access: Access, limit: RateLimit) -> APIRouter:
    router = APIRouter(prefix="/v1/feedback", tags=["feedback"])

    @router.post("", status_code=202, openapi_extra=_feedback_body(), dependencies=[Depends(within(limit, access))])
    def submit(raw: Annotated[bytes, Depends(_raw_body)]) -> FeedbackAccepted:
        """Report one bad response. Stored when this returns; the same id may be sent again."""
        result = door.submit(raw)
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


def _probes(health: Health) -> APIRouter:
    router = APIRouter(tags=["operations"])

    # async, so that it answers even when every worker thread waits for the database
    @router.get("/livez")
    async def livez(response: Response) -> LiveView:
        """200 while every stage makes progress; paused stages do."""
        live = health.live()
        response.status_code = 200 if live.alive else 503
        return LiveView(alive=live.alive, stalled=list(live.stalled))

    @router.get("/readyz")
    def readyz(response: Response) -> ReadyView:
        """200 when the database answers, a server answers as the live generation, and intake is connected."""
        ready = health.ready()
        response.status_code = 200 if ready.ready else 503
        return ReadyView(ready=ready.ready, missing=list(ready.missing))

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def _explain_errors(app: FastAPI) -> None:
    """Every error leaves as `{"error": {"reason", "detail"}}`."""

    @app.exception_handler(MessageRejected)
    def rejected(_: Request, exc: MessageRejected) -> JSONResponse:
        return refuse(_REJECTED_STATUS.get(exc.reason, 422), exc.reason, exc.detail)

    @app.exception_handler(ErratadError)
    def known(_: Request, exc: ErratadError) -> JSONResponse:
        status, reason = _ERROR_STATUS.get(type(exc), (500, "failed"))
        return refuse(status, reason, str(exc), {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        details = [f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}" for error in exc.errors()]
        return refuse(422, "invalid_request", "; ".join(details))

    @app.exception_handler(HTTPException)
    def refused(_: Request, exc: HTTPException) -> JSONResponse:
        return refuse(exc.status_code, _REASONS.get(exc.status_code, "refused"), exc.detail, dict(exc.headers or {}))

    @app.exception_handler(Exception)
    def unexpected(_: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001 - the server logs it
        return refuse(500, "internal", "erratad failed; its log says why")
