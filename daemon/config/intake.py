"""Section `intake`: sources of reports, and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from connectors.messages import MAX_MESSAGE_BYTES
from daemon.config.section import Positive, Seconds, Section

TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}$")]
"""The name of a source or of a token."""


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


class SourceConfig(Section):
    """A sender of reports that has a name, a trust and limits of its own: a topic, a token, or a user of the proxy."""

    name: Name
    """The principal of its reports."""
    topic: TopicName | None = None
    token: Name | None = None
    """The name of a token in `http.tokens`."""
    user: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """The name of a user, as the proxy of `http.proxy` passes it."""
    trusted: bool = False
    """Whether the operator vouches for its reports, so that they skip the checks of `trust`."""
    max_reports_per_day: Positive | None = None
    max_bytes_per_day: Positive | None = None
    max_reports_per_reporter_per_day: Positive | None = None
    """Limits of this source; None: those of `intake`."""

    @model_validator(mode="after")
    def _one_sender(self) -> Self:
        if sum(sender is not None for sender in (self.topic, self.token, self.user)) != 1:
            raise ValueError(f"give exactly one of topic, token and user for source {self.name!r}")
        return self


class IntakeConfig(Section):
    kafka: KafkaConfig | None = None
    sources: list[SourceConfig] = []
    """Read `daemon.config.sources`. A sender that is not listed is a source with the limits below, and not trusted."""
    max_message_bytes: Positive = MAX_MESSAGE_BYTES
    max_reports_per_day: Positive = 20_000
    """Further reports of one source are refused: HTTP 429, or a dead letter with the reason `quota`."""
    max_bytes_per_day: Positive = 536_870_912
    """The size of the stored messages of one source; further ones are refused in the same way."""
    max_reports_per_reporter_per_day: Positive = 200
    """Further reports are quarantined for review, so that one reporter cannot steer the model alone."""
    expect_report_within_h: Annotated[float, Field(ge=0)] = 72.0
    """After this time without a report ErratadNoReports fires; 0: never."""
