"""Sends log records to one endpoint of OpenTelemetry: OTLP over HTTP, version 1, in its JSON encoding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

import httpx

PATH = "/v1/logs"
EVALUATION = "gen_ai.evaluation.result"
"""Name of the event in OpenTelemetry's conventions, with its attributes."""
NAME, VALUE, LABEL = (f"gen_ai.evaluation.{one}" for one in ("name", "score.value", "score.label"))
RESPONSE_ID = "gen_ai.response.id"
MAX_ANSWER_BYTES = 65_536
_LATER = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""The status codes after which OTLP lets a sender try again, and those of wrong credentials."""

Value = str | int | float


class OtlpError(Exception):
    """The endpoint refused the records."""


class OtlpUnavailableError(OtlpError):
    """The endpoint is away, overloaded, or does not know the credentials."""


def record(name: str, at: datetime, attributes: Mapping[str, Value | None]) -> dict[str, Any]:
    """A log record that is an event with this name. Attributes that are None are left out."""
    given = [{"key": key, "value": _value(value)} for key, value in attributes.items() if value is not None]
    return {"eventName": name, "timeUnixNano": str(int(at.timestamp() * 1_000_000) * 1000), "attributes": given}


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}


class OtlpLogs:
    """Client of one endpoint. It never retries: the caller decides that.

    Args:
        resource: Attributes of the sender, such as `service.name`.
    """

    def __init__(self, endpoint: str, *, token: str | None, resource: Mapping[str, Value], timeout_s: float) -> None:
        self._url = endpoint.rstrip("/") + PATH
        self._resource = [{"key": key, "value": _value(value)} for key, value in resource.items()]
        headers = {"content-type": "application/json", "user-agent": "erratad"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.Client(timeout=timeout_s, follow_redirects=False, headers=headers)

    def send(self, records: Sequence[Mapping[str, Any]]) -> str | None:
        """Return when the endpoint has taken the request: None, or its reason for refusing some of the records.

        OTLP forbids to send records again that were refused in part.

        Raises:
            OtlpUnavailableError: Later it may take them.
            OtlpError: It refused all of them. The texts omit the URL, which may contain a token.
        """
        scope = {"scope": {"name": "erratad"}, "logRecords": list(records)}
        body = {"resourceLogs": [{"resource": {"attributes": self._resource}, "scopeLogs": [scope]}]}
        try:
            with self._client.stream("POST", self._url, content=json.dumps(body)) as answer:
                status, said = answer.status_code, _read(answer)
        except httpx.HTTPError as exc:
            raise OtlpUnavailableError(f"no answer ({type(exc).__name__})") from exc
        if status in _LATER:
            raise OtlpUnavailableError(f"HTTP {status}")
        if not 200 <= status < 300:
            raise OtlpError(f"HTTP {status}")
        return _refused(said)

    def close(self) -> None:
        self._client.close()


def _read(answer: httpx.Response) -> bytes:
    """The answer's body, up to a limit: an endless one must not block the sender."""
    said = b""
    for chunk in answer.iter_bytes():
        said += chunk
        if len(said) > MAX_ANSWER_BYTES:
            break
    return said


def _refused(answer: bytes) -> str | None:
    try:
        partial = json.loads(answer)["partialSuccess"]
        rejected = int(partial.get("rejectedLogRecords", 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # no JSON, or nothing was refused
    return f"{rejected} refused: {partial.get('errorMessage', '')}"[:300] if rejected else None
