"""Sink of stage "otlp": the verdicts on adapters and reports, as OpenTelemetry's events `gen_ai.evaluation.result`.

Ids, names of adapters and labels are sent; texts, reasons and names of senders are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from connectors.messages import Event, EventType
from connectors.otlp import OtlpError, OtlpLogs, OtlpUnavailableError, Value, record
from daemon.config.delivery import OtlpConfig
from daemon.config.secret import secret
from daemon.delivery.retries import Retries
from daemon.delivery.stage import SinkUnavailableError
from daemon.errors import NotFoundError
from daemon.runtime.stage import Life
from daemon.store import Store
from daemon.store.outbox import Attempt, Backlog, Due, Sink, Subscription

log = structlog.get_logger(__name__)

RESULT = "gen_ai.evaluation.result"
ADAPTERS: Mapping[EventType, tuple[str, float]] = {
    EventType.ADAPTER_ON_TRIAL: ("on_trial", 1.0),
    EventType.ADAPTER_PROMOTED: ("promoted", 1.0),
    EventType.ADAPTER_REJECTED: ("rejected", 0.0),
    EventType.ADAPTER_ROLLED_BACK: ("rolled_back", 0.0),
}
"""Label and value of the verdict: 1 lets an adapter answer users, 0 does not."""
REPORTS: Mapping[EventType, tuple[str, float | None]] = {
    EventType.REPORT_RESOLVED: ("resolved", 1.0),
    EventType.REPORT_RECURRING: ("recurring", 0.0),
    EventType.REPORT_IMPROVED: ("improved", 0.0),
    EventType.REPORT_NOT_REPRODUCED: ("not_reproduced", None),
}
"""1: the mistake is gone. Without a value nothing is known of it."""


class OtlpSink:
    name = "otlp"
    idle_s = 2.0
    batch = 100
    target = "the OTLP endpoint"
    subscription = Subscription(sink=Sink.OTLP, types=(*ADAPTERS, *REPORTS))

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
        about = self._about_adapter(event) if event.type in ADAPTERS else self._about_report(event)
        shared = {"gen_ai.request.model": self._alias, "erratad.event_id": event.id}
        return record(RESULT, event.occurred_at, {**shared, **about})

    def _about_adapter(self, event: Event) -> dict[str, Value | None]:
        label, value = ADAPTERS[event.type]
        generation = event.data.get("generation")
        return {
            "gen_ai.evaluation.name": "erratad.adapter",
            "gen_ai.evaluation.score.label": label,
            "gen_ai.evaluation.score.value": value,
            "gen_ai.response.model": event.subject,
            "erratad.generation": generation if isinstance(generation, int) else None,
        }

    def _about_report(self, event: Event) -> dict[str, Value | None]:
        label, value = REPORTS[event.type]
        generation = event.data.get("generation")
        try:
            completion_id = self._store.reports.get(event.subject).flagged.completion_id
        except NotFoundError:
            completion_id = None  # removed since
        return {
            "gen_ai.evaluation.name": "erratad.report",
            "gen_ai.evaluation.score.label": label,
            "gen_ai.evaluation.score.value": value,
            "gen_ai.response.id": completion_id,
            "erratad.report_id": event.subject,
            "erratad.generation": generation if isinstance(generation, int) else None,
        }
