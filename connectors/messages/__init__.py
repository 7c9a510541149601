"""The wire schema: flagged responses in, lifecycle events out. Read `report` first."""

from __future__ import annotations

from connectors.messages.checks import Checks
from connectors.messages.event import Event, EventType
from connectors.messages.fields import MAX_DEPTH, FreeJson, Identifier, Name, Text, Wire, storable
from connectors.messages.report import (
    MAX_MESSAGE_BYTES,
    WIRE_VERSION,
    ChatMessage,
    FlaggedResponse,
    MessageRejected,
    Rejection,
    Severity,
    decode,
    json_schema,
    refuse_constant,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "WIRE_VERSION",
    "ChatMessage",
    "Checks",
    "Event",
    "EventType",
    "FlaggedResponse",
    "FreeJson",
    "Identifier",
    "MessageRejected",
    "Name",
    "Rejection",
    "Severity",
    "Text",
    "Wire",
    "decode",
    "json_schema",
    "refuse_constant",
    "storable",
]
