"""Sections `outbox`, `webhook`, `mlflow` and `otlp`: delivery of events."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from connectors.messages import EventType
from daemon.config.section import Positive, Seconds, Section


class OutboxConfig(Section):
    retention_s: Seconds = 604_800.0
    """Events older than this are deleted once all sinks are done with them."""


class SinkConfig(Section):
    max_attempts: Positive = 12
    """After this many attempts, or refusals of MLflow and OpenTelemetry, the event is dropped.

    The drop is counted, logged and shown by the stage.
    """
    backoff_s: Seconds = 5.0
    timeout_s: Seconds = 15.0


class WebhookConfig(SinkConfig):
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


class MlflowConfig(SinkConfig):
    tracking_uri: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    experiment: Annotated[str, Field(min_length=1)] = "erratad"
    registered_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]*$")] | None = None
    """The adapters are versions of this registered model; None: `serving.alias`."""
    token_env: str | None = None
    """Variable with a bearer token."""
    username_env: str | None = None
    password_env: str | None = None
    upload_adapters: bool = False
    """True: the files of an adapter become artifacts of its run. False: its version only names the folder."""

    @model_validator(mode="after")
    def _one_sign_in(self) -> Self:
        if (self.username_env is None) != (self.password_env is None):
            raise ValueError("give username_env and password_env together")
        if self.token_env is not None and self.username_env is not None:
            raise ValueError("give token_env, or username_env and password_env, not both")
        return self


class OtlpConfig(SinkConfig):
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """Base URL; `/v1/logs` is added."""
    service_name: Annotated[str, Field(min_length=1)] = "erratad"
    """The resource's `service.name`."""
    token_env: str | None = None
    """Variable with a bearer token."""
