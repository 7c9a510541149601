"""Sink of stage "otlp": the verdicts on adapters and reports, as OpenTelemetry's events `gen_ai.evaluation.result`.

Ids, names of adapters and labels are sent; texts, reasons and names of senders are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from connectors.messages import Event, EventType
from connectors.otlp import (
    EVALUATION,
    LABEL,
    NAME,
    RESPONSE_ID,
    VALUE,
    OtlpError,
    OtlpLogs,
    OtlpUnavailableError,
    Value,
    record,
)
from daemon.config.delivery import OtlpConfig
from daemon.config.secret import secret
from daemon.delivery.retries import Retries
from daemon.delivery.stage import SinkUnavailableError
from daemon.errors import NotFoundError
from daemon.runtime.stage import Life
from daemon.store import Store
from daemon.store.outbox import Attempt, Backlog, Due, Sink, Subscription

log = structlog.get_logger(__name__)

VERDICTS: Mapping[EventType, tuple[str, float | None]] = {
    EventType.ADAPTER_ON_TRIAL: ("on_trial", 1.0),
    EventType.ADAPTER_PROMOTED: ("promoted", 1.0),
    EventType.ADAPTER_REJECTED: ("rejected", 0.0),
    EventType.ADAPTER_ROLLED_BACK: ("rolled_back", 0.0),
    EventType.REPORT_RESOLVED: ("resolved", 1.0),
    EventType.REPORT_RECURRING: ("recurring", 0.0),
    EventType.REPORT_IMPROVED: ("improved", 0.0),
    EventType.REPORT_NOT_REPRODUCED: ("not_reproduced", None),
}
"""Label and value. 1: the adapter may answer users, the mistake is gone. Without a value nothing is known."""


class OtlpSink:
    name = "otlp"
    idle_s = 2.0
    batch = 100
    target = "the OTLP endpoint"
    subscription = Subscription(sink=Sink.OTLP, types=tuple(VERDICTS))

    def __init__(self, *, store: Store, endpoint: OtlpLogs, config: OtlpConfig, alias: str) -> None:
        self._store = store
        self._endpoint = endpoint
        self._alias = alias
        self._retries = Retries(Sink.OTLP, max_attempts=config.max_attempts, backoff_s=config.backoff_s)

    @classmethod
    def connect(cls, config: OtlpConfig, *, store: Store, alias: str) -> OtlpSink:
        """Make the sink. It connects at the first event. Raises ConfigError if a secret is not set."""
        resource = {"service.name": config.service_name}
        token = secret(config.token_env)
        endpoint = OtlpLogs(config.endpoint, token=token, resource=resource, timeout_s=config.timeout_s)
        return cls(store=store, endpoint=endpoint, config=config, alias=alias)

    def send(self, due: Sequence[Due], life: Life) -> Iterator[Sequence[Attempt]]:
        """Send the whole batch in one request."""
        if life.stopping:
            return
        try:
            partly = self._endpoint.send([self._record(one.event) for one in due])
        except OtlpUnavailableError as exc:
            raise SinkUnavailableError(str(exc)) from exc
        except OtlpError as exc:
            yield [self._retries.refused(one, str(exc)) for one in due]
            return
        if partly is not None:  # nobody says which, and they must not be sent again
            log.warning("otlp_partial_success", error=partly)
        yield [self._retries.delivered(one) for one in due]

    def show(self, backlog: Backlog) -> None:
        self._retries.show(backlog)

    def close(self) -> None:
        self._endpoint.close()

    def _record(self, event: Event) -> dict[str, Any]:
        label, value = VERDICTS[event.type]
        kind, _, _ = event.type.partition(".")
        generation = event.data.get("generation")
        verdict: dict[str, Value | None] = {
            NAME: f"erratad.{kind}",
            LABEL: label,
            VALUE: value,
            "gen_ai.request.model": self._alias,
            "erratad.event_id": event.id,
            "erratad.generation": generation if isinstance(generation, int) else None,
        }
        if kind == "adapter":
            return record(EVALUATION, event.occurred_at, {**verdict, "gen_ai.response.model": event.subject})
        about = {RESPONSE_ID: self._completion_id(event.subject), "erratad.report_id": event.subject}
        return record(EVALUATION, event.occurred_at, {**verdict, **about})

    def _completion_id(self, report_id: str) -> str | None:
        """None if the report named none, or was removed since."""
        try:
            return self._store.reports.get(report_id).flagged.completion_id
        except NotFoundError:
            return None
