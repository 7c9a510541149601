"""Reads the raw bytes of one Kafka record or HTTP body as a `FlaggedResponse`.

What cannot be read raises `MessageRejected` with a reason from a closed set (`Rejection`) and one sentence of detail.
"""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from connectors.messages import short
from connectors.messages.body import TooLargeError, plain_text
from connectors.messages.fields import MAX_VALUES, values_in
from connectors.messages.problems import sentences
from connectors.messages.report import WIRE_VERSION, FlaggedResponse, Rating
from connectors.messages.short import AWAITED

MAX_MESSAGE_BYTES = 1_048_576
"""Default size limit of one message: 1 MiB, as the default limit of a Kafka broker."""


class Rejection(StrEnum):
    """Why a message is rejected: the closed label set of dead letters."""

    OVERSIZED = "oversized"
    NOT_UTF8 = "not_utf8"
    MALFORMED_JSON = "malformed_json"
    WRONG_VERSION = "wrong_version"
    SCHEMA_VIOLATION = "schema_violation"
    CONFLICT = "conflict"
    FAILED = "processing_failed"
    QUOTA = "quota"
    NO_RECORD = "no_record"
    """It names a completion only, and the servers do not remember their answers (`serving.exchanges`)."""


class MessageRejected(ValueError):  # noqa: N818 - names the outcome
    """The message cannot be stored. `reason` is for programs; the text names the field and the next step."""

    def __init__(self, reason: Rejection, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def decode(raw: bytes | None, *, max_bytes: int = MAX_MESSAGE_BYTES) -> FlaggedResponse:
    """Decode one message.

    Raises:
        MessageRejected: with a reason from `Rejection`; the text names the field and the fix.
    """
    value = document(raw, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, "the message must be a JSON object")
    value = _whole(value)
    if value.get("version") != WIRE_VERSION or isinstance(value.get("version"), bool):
        given = f"{value['version']!r:.40}" if "version" in value else "missing"
        raise MessageRejected(Rejection.WRONG_VERSION, f"version is {given}; this erratad takes {WIRE_VERSION}")
    try:
        flagged = FlaggedResponse.model_validate(value)
    except (ValidationError, RecursionError) as exc:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, _explain(exc)) from exc
    if (fault := _fault(flagged)) is not None:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, fault)
    return flagged


def document(raw: bytes | None, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """The JSON value of a message or of an HTTP body, within the bounds of size and of number of values.

    Raises:
        MessageRejected: with a reason from `Rejection`.
    """
    if raw is None:
        raise MessageRejected(Rejection.MALFORMED_JSON, "the message has no value (a tombstone)")
    if len(raw) > max_bytes:
        raise MessageRejected(Rejection.OVERSIZED, f"{len(raw)} bytes; at most {max_bytes} are taken")
    text = _text(raw, max_bytes)
    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as exc:
        raise MessageRejected(Rejection.MALFORMED_JSON, f"not JSON: {exc if text.strip() else 'it is empty'}") from exc
    if len(text) > MAX_VALUES and values_in(value) > MAX_VALUES:  # each value takes a character at least
        raise MessageRejected(
            Rejection.SCHEMA_VIOLATION, f"holds more than {MAX_VALUES} JSON values; send what is not needed as one text"
        )
    return value


def _whole(value: dict[str, Any]) -> dict[str, Any]:
    """The message in the full form."""
    if not short.is_short(value):
        return value
    try:
        return short.completed(value)
    except ValueError as exc:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, str(exc)) from exc


def _fault(flagged: FlaggedResponse) -> str | None:
    """What the schema cannot say."""
    if flagged.model == AWAITED and flagged.completion_id is None:
        return f"model {AWAITED!r} needs a completion_id"
    if flagged.is_awaited and flagged.rating is None and "rating" in flagged.metadata:
        return "rating: must be up or down"
    if flagged.rating is Rating.UP and (flagged.correction is not None or flagged.checks is not None):
        return "rating is up, but an edit, a correction or checks are for a bad answer; send rating down, or none"
    return None if flagged.checks is None else flagged.checks.excess


def _text(raw: bytes, max_bytes: int) -> str:
    try:
        return plain_text(raw, max_bytes=max_bytes)
    except TooLargeError as exc:
        raise MessageRejected(Rejection.OVERSIZED, f"{exc}; at most {max_bytes} bytes are taken") from exc
    except UnicodeDecodeError as exc:
        raise MessageRejected(Rejection.NOT_UTF8, f"byte {exc.start} is not UTF-8; send UTF-8 JSON") from exc
    except ValueError as exc:
        raise MessageRejected(Rejection.MALFORMED_JSON, str(exc)) from exc


def refuse_constant(name: str) -> float:
    """For `json.loads`, which takes NaN and Infinity otherwise."""
    raise ValueError(f"{name} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r:.60} stands twice in one object")
    return value


def _explain(exc: Exception) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    return "; ".join(sentences(exc.errors(include_url=False)[:5], whole="message"))


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    return schema if null in schema.get("anyOf", ()) else {"anyOf": [schema, null]}


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the message, published at `GET /v1/feedback/schema` and by `erratad schema`."""
    schema = FlaggedResponse.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:  # as `shapes.report` takes it: null is absent, and unknown fields are kept or ignored
            part.pop("additionalProperties", None)
            optional = set(part["properties"]) - set(part.get("required", ())) | {"response"}
            part["properties"] = {
                name: _or_null(one) if name in optional else one for name, one in part["properties"].items()
            }
    schema["properties"] |= _ALSO
    schema["anyOf"] = short.branches(schema.pop("required"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "erratad/flagged-response/v1", **schema}


_ALSO = {
    "comment": {"description": "The user's words. The reason, if the message has none."},
    "edit": {"description": "The user's better answer. The correction, if the message has none."},
}
"""Other names of fields."""
