"""Sections `outbox` and `webhook`: delivery of events."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connectors.messages import EventType
from daemon.config.section import Positive, Seconds, Section


class OutboxConfig(Section):
    retention_s: Seconds = 604_800.0
    """Events older than this are deleted once all sinks are done with them."""


class WebhookConfig(Section):
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    secret_env: str
    """Variable with the key that signs every message (Standard Webhooks): base64 of 24 to 64 random bytes."""
    events: list[EventType] = Field(
        default=[
            EventType.ADAPTER_ON_TRIAL,
            EventType.ADAPTER_PROMOTED,
            EventType.ADAPTER_REJECTED,
            EventType.ADAPTER_ROLLED_BACK,
            EventType.REPORT_RESOLVED,
            EventType.REPORT_RECURRING,
        ],
        min_length=1,
    )
    max_attempts: Positive = 12
    """After this many attempts the event is dropped. The drop is counted, logged and shown by the stage."""
    backoff_s: Seconds = 5.0
    timeout_s: Seconds = 15.0
