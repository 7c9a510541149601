"""Sink of stage "webhook": one HTTP endpoint. Each refused event has its own wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import structlog

from connectors.webhook import WebhookEndpoint, WebhookError
from daemon import metrics
from daemon.config.delivery import WebhookConfig
from daemon.errors import ConfigError
from daemon.records import utcnow
from daemon.runtime.backoff import Backoff
from daemon.runtime.stage import Life
from daemon.store.outbox import Attempt, Backlog, DeliveryState, Due, Sink, Subscription

log = structlog.get_logger(__name__)

MAX_BACKOFF_S = 3600.0


class WebhookSink:
    name = "webhook"
    idle_s = 2.0
    batch = 100
    target = "the webhook"

    def __init__(self, *, endpoint: WebhookEndpoint, config: WebhookConfig) -> None:
        self._endpoint = endpoint
        self._config = config
        self._backoff = Backoff(first_s=config.backoff_s, limit_s=MAX_BACKOFF_S)
        self.subscription = Subscription(sink=Sink.WEBHOOK, types=tuple(config.events))

    @classmethod
    def connect(cls, config: WebhookConfig, *, secret: str) -> WebhookSink:
        """Connect to the endpoint. Raises ConfigError if the secret is no valid signing secret."""
        try:
            endpoint = WebhookEndpoint(config.url, secret=secret, timeout_s=config.timeout_s)
        except ValueError as exc:
            raise ConfigError(f"webhook.secret_env: {config.secret_env} {exc}") from exc
        return cls(endpoint=endpoint, config=config)

    def send(self, due: Sequence[Due], life: Life) -> Iterator[Sequence[Attempt]]:
        """Send one event after the other; the first refusal ends the step."""
        for one in due:
            if life.stopping:
                return
            try:
                self._endpoint.send(one.event.id, one.event.encode())
            except WebhookError as exc:
                yield [self._failed(one, exc)]
                return
            yield [Attempt(due=one, state=DeliveryState.DELIVERED)]
            metrics.WEBHOOK_DELIVERIES.labels(outcome="delivered").inc()

    def show(self, backlog: Backlog) -> None:
        metrics.WEBHOOK_WAITING.set(backlog.waiting)
        metrics.WEBHOOK_DEAD.set(backlog.dead)

    def close(self) -> None:
        self._endpoint.close()

    def _failed(self, due: Due, exc: WebhookError) -> Attempt:
        attempts, error = due.attempts + 1, str(exc)
        if exc.gone or attempts >= self._config.max_attempts:
            metrics.WEBHOOK_DELIVERIES.labels(outcome="dead").inc()
            log.error("webhook_dead", event_id=due.event.id, type=due.event.type, attempts=attempts, error=error)
            return Attempt(due=due, state=DeliveryState.DEAD, error=error)
        metrics.WEBHOOK_DELIVERIES.labels(outcome="retried").inc()
        again = utcnow() + timedelta(seconds=self._backoff.delay_s(attempts))
        return Attempt(due=due, state=DeliveryState.WAITING, error=error, next_attempt_at=again)
