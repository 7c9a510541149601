"""OTLP over HTTP in its two encodings, JSON and protobuf: the log records of a request, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.messages import MessageRejected, Rejection
from connectors.messages.body import GZIP, TooLargeError, gunzipped
from connectors.messages.fields import MAX_VALUES

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

PROTOBUF = "application/x-protobuf"


def document_of(raw: bytes, *, max_bytes: int) -> dict[str, Any]:
    """A protobuf request as the document that its JSON form is; only fields that are needed here.

    Raises:
        MessageRejected: it is no such request, or too large.
    """
    from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415 - for protobuf only
        DecodeError,
    )
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest  # noqa: PLC0415

    try:
        plain = gunzipped(raw, max_bytes=max_bytes) if raw.startswith(GZIP) else raw
        request = ExportLogsServiceRequest.FromString(plain)
    except TooLargeError as exc:
        raise MessageRejected(Rejection.OVERSIZED, f"{exc}; at most {max_bytes} bytes are taken") from exc
    except (DecodeError, ValueError) as exc:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, f"not an ExportLogsServiceRequest: {exc}") from exc
    records = [one for resource in request.resource_logs for scope in resource.scope_logs for one in scope.log_records]
    if sum(len(one.attributes) for one in records) > MAX_VALUES:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, f"holds more than {MAX_VALUES} attributes")
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [_record(one) for one in records]}]}]}


def _record(record: LogRecord) -> dict[str, Any]:
    return {
        "eventName": record.event_name,
        "timeUnixNano": str(record.time_unix_nano),
        "observedTimeUnixNano": str(record.observed_time_unix_nano),
        "traceId": record.trace_id.hex() or None,
        "spanId": record.span_id.hex() or None,
        "attributes": [{"key": one.key, "value": _value(one.value)} for one in record.attributes],
    }


def _value(value: Any) -> dict[str, Any]:
    """The value, if it is a text, a number or a truth value."""
    kind = value.WhichOneof("value")
    names = {"string_value": "stringValue", "bool_value": "boolValue", "int_value": "intValue"}
    names["double_value"] = "doubleValue"
    return {names[kind]: getattr(value, kind)} if kind in names else {}


def encoded_answer(*, rejected: int, said: str) -> bytes:
    """The protobuf answer (ExportLogsServiceResponse)."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse  # noqa: PLC0415

    answer = ExportLogsServiceResponse()
    if rejected or said:
        answer.partial_success.rejected_log_records = rejected
        answer.partial_success.error_message = said
    return bytes(answer.SerializeToString())


def json_answer(*, rejected: int, said: str) -> dict[str, Any]:
    """The answer in JSON, in which a number of 64 bits is a text."""
    if not rejected and not said:
        return {}
    return {"partialSuccess": {"rejectedLogRecords": str(rejected), "errorMessage": said}}
