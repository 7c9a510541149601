"""Section `intake`: sources of reports, and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from connectors.messages import MAX_MESSAGE_BYTES
from daemon.config.section import Positive, Seconds, Section

TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]


class KafkaConfig(Section):
    bootstrap_servers: list[str] = Field(min_length=1)
    topic: TopicName = "erratad.flagged-responses"
    dead_letter_topic: TopicName = "erratad.flagged-responses.dead-letter"
    events_topic: TopicName = "erratad.events"
    group_id: str = "erratad"
    client_id: str = "erratad"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password_env: str | None = None
    max_poll_records: Positive = 200
    session_timeout_s: Seconds = 30.0
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            for key in ("sasl_mechanism", "sasl_username", "sasl_password_env"):
                if getattr(self, key) is None:
                    raise ValueError(f"{key} is needed when security_protocol is {self.security_protocol}")
        return self


class IntakeConfig(Section):
    kafka: KafkaConfig | None = None
    max_message_bytes: Positive = MAX_MESSAGE_BYTES
    max_reports_per_reporter_per_day: Positive = 200
    """Further reports are quarantined for review, so that one reporter cannot steer the model alone."""
