"""Sections of the configuration: how erratad tells others what happened."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connectors.messages import EventType
from daemon.config.section import Positive, Seconds, Section


class OutboxConfig(Section):
    retention_s: Seconds = 604_800.0
    """Events that every sink is done with are deleted when they are older."""


class WebhookConfig(Section):
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    secret_env: str
    """Signs every message (Standard Webhooks): base64 of 24 to 64 random bytes."""
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
    """Then the event is given up: counted, logged and said by the stage."""
    backoff_s: Seconds = 5.0
    timeout_s: Seconds = 15.0
