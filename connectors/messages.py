"""The wire schema: flagged responses in, lifecycle events out.

`decode` turns the raw bytes of one Kafka record or HTTP body into a `FlaggedResponse`. If it cannot, it raises
`MessageRejected` with a reason from a closed set (`Rejection`) and one sentence of detail.
"""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

WIRE_VERSION = 1
MAX_MESSAGE_BYTES = 1_048_576
"""Default size limit of one message: 1 MiB, as the default limit of a Kafka broker."""
MAX_DEPTH = 32
"""Maximum nesting of free JSON (metadata, tool calls, schemas). Deeper values could not be stored or encoded again."""


class Rejection(StrEnum):
    """Why a message is rejected: the closed label set of dead letters."""

    OVERSIZED = "oversized"
    NOT_UTF8 = "not_utf8"
    MALFORMED_JSON = "malformed_json"
    WRONG_VERSION = "wrong_version"
    SCHEMA_VIOLATION = "schema_violation"
    CONFLICT = "conflict"


class MessageRejected(ValueError):  # noqa: N818 - names the outcome
    """The message cannot be stored. `reason` is for programs; the text names the field and the next step."""

    def __init__(self, reason: Rejection, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def storable(text: str) -> str:
    """The text with U+FFFD for NUL and "?" for lone surrogates: PostgreSQL stores neither."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _storable(text: str) -> str:
    if storable(text) != text:
        fault = "a NUL character" if "\x00" in text else "a lone surrogate"
        raise ValueError(f"contains {fault}, which PostgreSQL cannot store; remove it")
    return text


def _storable_json(value: JsonValue, depth: int = MAX_DEPTH) -> JsonValue:
    if depth < 0:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels; flatten it")
    if isinstance(value, str):
        _storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is too large for JSON; send it as text")
    elif isinstance(value, list):
        for item in value:
            _storable_json(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            _storable(key)
            _storable_json(item, depth - 1)
    return value


Text = Annotated[str, AfterValidator(_storable)]
FreeJson = Annotated[JsonValue, AfterValidator(_storable_json)]
Identifier = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]*$")]


class Wire(BaseModel):
    """Base of every wire record: unknown fields are errors, and records are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Severity(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class ChatMessage(Wire):
    """One message of the conversation in the OpenAI chat format. Text parts are joined to one string."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text = ""
    name: Text | None = None
    tool_calls: list[dict[Text, FreeJson]] | None = None
    tool_call_id: Text | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_text_parts(cls, value: Any) -> Any:
        if value is None:
            return ""
        if not isinstance(value, list):
            return value
        return "\n".join(_text_of(part) for part in value)


def _text_of(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise ValueError("only text parts are supported: send {'type': 'text', 'text': ...}")  # noqa: TRY004 - pydantic
    return text


class Checks(Wire):
    """Rules for a good answer to the same conversation. An answer passes if it meets all given rules."""

    must_contain: list[Text] = Field(default=[], description="Each text occurs in the answer (case-insensitive).")
    must_not_contain: list[Text] = Field(default=[], description="None of the texts occurs (case-insensitive).")
    regex: Text | None = Field(default=None, max_length=1000, description="The pattern is found in the answer.")
    json_schema: dict[Text, FreeJson] | bool | None = Field(
        default=None, description="The answer is JSON that is valid under this schema."
    )
    max_words: int | None = Field(default=None, ge=1, description="The answer has at most this many words.")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        import regex  # noqa: PLC0415 - keeps `daemon.config` fast to import

        if value is not None:
            try:
                regex.compile(value)
            except (regex.error, RecursionError, OverflowError) as exc:
                raise ValueError(f"is not a regular expression: {exc}") from exc
        return value

    @field_validator("json_schema")
    @classmethod
    def _is_a_schema(cls, value: dict[str, JsonValue] | bool | None) -> dict[str, JsonValue] | bool | None:  # noqa: FBT001
        from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415

        if value is not None:
            try:
                Draft202012Validator.check_schema(value)
            except SchemaError as exc:
                raise ValueError(f"is not a JSON Schema: {exc.message}") from exc
        return value


class FlaggedResponse(Wire):
    """One response that a user flagged as bad (wire schema, version 1)."""

    version: Literal[1] = Field(description="Version of this schema.")
    id: Identifier = Field(description="Idempotency key: the same id is stored once, however often it is sent.")
    occurred_at: datetime = Field(description="When the response was flagged (RFC 3339 with a time zone).")
    model: Text = Field(max_length=200, description="The `model` field of the flagged answer: names the generation.")
    messages: list[ChatMessage] = Field(min_length=1, description="The conversation up to the flagged answer.")
    response: Text = Field(min_length=1, description="The flagged answer, verbatim.")
    reason: Text = Field(min_length=1, max_length=4000, description="What is wrong, in the user's words.")
    category: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="Kind of mistake, such as 'harmful', 'prompt-injection', 'wrong-fact', 'format'."
    )
    severity: Severity = Severity.MEDIUM
    correction: Text | None = Field(default=None, min_length=1, description="What the answer should have been.")
    checks: Checks | None = Field(default=None, description="Rules that a good answer meets.")
    reporter: Identifier = Field(description="Who flagged it (pseudonymous is fine); caps apply per reporter.")
    tenant: Identifier | None = None
    locale: Annotated[Text, Field(max_length=35)] | None = None
    metadata: dict[Text, FreeJson] = Field(default={}, description="Anything else; stored, never interpreted.")

    @field_validator("occurred_at", mode="before")
    @classmethod
    def _is_written_out(cls, value: Any) -> Any:
        if not isinstance(value, str | datetime):
            raise ValueError("must be a text such as 2026-01-31T12:00:00Z")  # noqa: TRY004 - pydantic
        return value

    @field_validator("occurred_at")
    @classmethod
    def _has_time_zone(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("needs a time zone, e.g. 2026-01-31T12:00:00Z")
        try:
            return value.astimezone(UTC)
        except OverflowError as exc:
            raise ValueError("is outside of the years 1 to 9999 in UTC") from exc

    @field_validator("messages")
    @classmethod
    def _ends_with_a_request(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        if value[-1].role not in {"user", "tool"}:
            raise ValueError("must end with the user's (or a tool's) message; the flagged answer goes into 'response'")
        return value

    def fingerprint(self) -> str:
        """SHA-256 of everything but the id: tells a redelivery from another report that reuses the id."""
        return _sha256(self.model_dump(mode="json", exclude={"id"}))

    def content_key(self) -> str:
        """SHA-256 of conversation and response: equal for two reports of the same answer."""
        return _sha256(self.model_dump(mode="json", include={"messages", "response"}))

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


def _sha256(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def decode(raw: bytes | None, *, max_bytes: int = MAX_MESSAGE_BYTES) -> FlaggedResponse:
    """Decode one message.

    Raises:
        MessageRejected: with a reason from `Rejection`; the text names the field and the fix.
    """
    if raw is None:
        raise MessageRejected(Rejection.MALFORMED_JSON, "the message has no value (a tombstone)")
    if len(raw) > max_bytes:
        raise MessageRejected(Rejection.OVERSIZED, f"{len(raw)} bytes; at most {max_bytes} are taken")
    _refuse_framing(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MessageRejected(Rejection.NOT_UTF8, f"byte {exc.start} is not UTF-8; send UTF-8 JSON") from exc
    try:
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as exc:
        raise MessageRejected(Rejection.MALFORMED_JSON, f"not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, "the message must be a JSON object")
    if value.get("version") != WIRE_VERSION or isinstance(value.get("version"), bool):
        raise MessageRejected(
            Rejection.WRONG_VERSION, f"version is {value.get('version')!r:.40}; this erratad takes {WIRE_VERSION}"
        )
    try:
        return FlaggedResponse.model_validate(value)
    except (ValidationError, RecursionError) as exc:
        raise MessageRejected(Rejection.SCHEMA_VIOLATION, _explain(exc)) from exc


def _refuse_framing(raw: bytes) -> None:
    """Name Confluent's framing: a zero byte and a schema id of 4 bytes before the value."""
    utf_16_or_32 = (b"\x00{\x00", b"\x00\x00\x00{\x00\x00\x00")
    if len(raw) <= 5 or raw[0] != 0 or raw.startswith(utf_16_or_32):
        return
    what = "JSON" if raw[5:].lstrip().startswith(b"{") else "a value that is not plain JSON (Avro or Protobuf?)"
    raise MessageRejected(
        Rejection.MALFORMED_JSON,
        f"Confluent framing: a zero byte and schema id {int.from_bytes(raw[1:5])} stand before {what}; send plain "
        "JSON, without a serializer of the schema registry",
    )


def refuse_constant(name: str) -> float:
    """For `json.loads`, which takes NaN and Infinity otherwise."""
    raise ValueError(f"{name} is not JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!r:.60} stands twice in one object")
        value[key] = item
    return value


def _explain(exc: Exception) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'message'}: {error['msg']}" for error in exc.errors()[:5]
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the message, published at `GET /v1/feedback/schema` and by `erratad schema`."""
    schema = FlaggedResponse.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "erratad/flagged-response/v1", **schema}


class EventType(StrEnum):
    """Outbound lifecycle events on `erratad.events`."""

    LESSON_CREATED = "lesson.created"
    ADAPTER_ON_TRIAL = "adapter.on_trial"
    ADAPTER_PROMOTED = "adapter.promoted"
    ADAPTER_REJECTED = "adapter.rejected"
    ADAPTER_ROLLED_BACK = "adapter.rolled_back"
    REPORT_RESOLVED = "report.resolved"
    REPORT_RECURRING = "report.recurring"
    REPORT_BURIED = "report.buried"


class Event(Wire):
    """One outbound event; `id` lets consumers drop the duplicates of at-least-once delivery."""

    version: Literal[1] = 1
    id: Identifier
    type: EventType
    occurred_at: datetime
    subject: Text = Field(description="The report id or adapter name that the event is about; also the Kafka key.")
    data: dict[str, JsonValue] = {}

    def encode(self) -> bytes:
        return self.model_dump_json().encode()
