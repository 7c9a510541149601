"""The HTTP application: feedback from chat backends, probes, metrics, the operators' API and the console."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from connectors.messages import MessageRejected, Rejection, sentences
from daemon import __version__
from daemon.config import Config
from daemon.errors import ErratadError, IllegalTransitionError, NotFoundError, StoreUnavailableError
from daemon.intake.refusals import QuotaExceeded
from daemon.intake.stage import FeedbackIntake
from daemon.operations.health import Health
from daemon.store import Store
from daemon.web.access import Access
from daemon.web.console import console_router
from daemon.web.feedback import feedback_router
from daemon.web.guard import ErrorResponse, Guard, allowed_hosts, refuse
from daemon.web.operators import operators_router
from daemon.web.probes import probes_router
from daemon.web.products import products_router
from daemon.web.rate_limit import RateLimit

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
    415: "unsupported_encoding",
    429: "too_many_requests",
}


def create_app(*, store: Store, intake: FeedbackIntake, config: Config, health: Health) -> FastAPI:
    """Build the application. Raises ConfigError for a token or key of `http` that cannot be read."""
    access = Access(config.http, ended=store.sign_outs)
    app = FastAPI(
        title="erratad",
        version=__version__,
        summary="Feedback on a served chat model in; reports, runs and adapters out.",
        docs_url=None,  # both pages load scripts from a public CDN
        redoc_url=None,
        responses={"default": {"model": ErrorResponse, "description": "The error and how to correct it."}},
    )
    app.add_middleware(
        Guard,
        max_body_bytes=config.intake.max_message_bytes,
        allowed_hosts=allowed_hosts(config.http.host, config.http.allowed_hosts),
    )
    _add_error_handlers(app)
    app.include_router(probes_router(health))
    limit = RateLimit(config.http.feedback_per_minute)
    app.include_router(feedback_router(intake, store, access, limit, config))
    app.include_router(products_router(intake, access, limit, config))
    app.include_router(operators_router(store, config, access))
    app.include_router(console_router(store, config, access))
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is answered with the JSON body `{"error": {"reason", "detail"}}`."""

    @app.exception_handler(QuotaExceeded)
    def over_quota(_: Request, exc: QuotaExceeded) -> JSONResponse:
        return refuse(429, exc.reason, exc.detail, {"Retry-After": str(exc.retry_after_s)})

    @app.exception_handler(MessageRejected)
    def rejected(_: Request, exc: MessageRejected) -> JSONResponse:
        return refuse(_REJECTED_STATUS.get(exc.reason, 422), exc.reason, exc.detail)

    @app.exception_handler(ErratadError)
    def known(_: Request, exc: ErratadError) -> JSONResponse:
        status, reason = _ERROR_STATUS.get(type(exc), (500, "failed"))
        return refuse(status, reason, str(exc), {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        return refuse(422, "invalid_request", "; ".join(sentences(exc.errors(), whole="request")))

    @app.exception_handler(HTTPException)
    def refused(request: Request, exc: HTTPException) -> JSONResponse:
        headers, status = dict(exc.headers or {}), exc.status_code
        reason, detail = _REASONS.get(status, "refused"), exc.detail
        if detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:  # these two are of the routing itself
            detail = f"{request.method} is not taken here; use {headers['Allow']}"
        elif detail == HTTPStatus.NOT_FOUND.phrase:
            reason, detail = "unknown_address", "nothing is at this address; /openapi.json lists all addresses"
        return refuse(status, reason, detail, headers)

    @app.exception_handler(Exception)
    def unexpected(_: Request, exc: Exception) -> JSONResponse:  # noqa: ARG001 - the server logs it
        return refuse(500, "internal", "internal error; see the log of erratad")
