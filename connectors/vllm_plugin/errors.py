"""A request that the plugin refuses."""

from __future__ import annotations

from http import HTTPStatus

from starlette.responses import JSONResponse

RETRY_AFTER_S = 2


class RequestRefused(Exception):  # noqa: N818 - an answer to the client, not a fault
    """A request is refused; the client gets an OpenAI-style error body."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        error = {"message": str(self), "type": self.code, "param": None, "code": self.status.value}
        retry = {"Retry-After": str(RETRY_AFTER_S)} if self.status is HTTPStatus.SERVICE_UNAVAILABLE else None
        return JSONResponse({"error": error}, status_code=self.status.value, headers=retry)
