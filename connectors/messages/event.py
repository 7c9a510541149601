"""Lifecycle events out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from connectors.messages.fields import Identifier, Text, Wire


class EventType(StrEnum):
    """Outbound lifecycle events on `erratad.events`."""

    LESSON_CREATED = "lesson.created"
    ADAPTER_ON_TRIAL = "adapter.on_trial"
    ADAPTER_PROMOTED = "adapter.promoted"
    ADAPTER_REJECTED = "adapter.rejected"
    ADAPTER_ROLLED_BACK = "adapter.rolled_back"
    REPORT_RESOLVED = "report.resolved"
    REPORT_RECURRING = "report.recurring"
    REPORT_IMPROVED = "report.improved"
    REPORT_NOT_REPRODUCED = "report.not_reproduced"
    REPORT_BURIED = "report.buried"


class Event(Wire):
    """One outbound event; `id` lets consumers drop the duplicates of at-least-once delivery."""

    version: Literal[1] = 1
    id: Identifier
    type: EventType
    occurred_at: datetime
    subject: Text = Field(description="The report id or adapter name that the event is about; also the Kafka key.")
    data: dict[str, JsonValue] = Field(default={})

    def encode(self) -> bytes:
        return self.model_dump_json().encode()
