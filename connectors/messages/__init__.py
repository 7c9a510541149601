"""The wire schema: flagged responses in, lifecycle events out. Read `report` first."""

from __future__ import annotations

from connectors.messages.checks import Checks
from connectors.messages.decoding import (
    MAX_MESSAGE_BYTES,
    MessageRejected,
    Rejection,
    decode,
    document,
    json_schema,
    refuse_constant,
)
from connectors.messages.event import Event, EventType
from connectors.messages.fields import MAX_DEPTH, FreeJson, Identifier, Name, Text, Wire, storable
from connectors.messages.problems import sentences
from connectors.messages.report import WIRE_VERSION, ChatMessage, FlaggedResponse, Rating, Severity
from connectors.messages.short import AWAITED, EXAMPLES

__all__ = [
    "AWAITED",
    "EXAMPLES",
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
    "Rating",
    "Rejection",
    "Severity",
    "Text",
    "Wire",
    "decode",
    "document",
    "json_schema",
    "refuse_constant",
    "sentences",
    "storable",
]
