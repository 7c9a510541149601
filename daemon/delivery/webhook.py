"""Stage "webhook": what happened, from the outbox to one HTTP endpoint, each event at least once or given up visibly.

It has its own account of what was delivered: neither does it wait for Kafka, nor Kafka for it.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from connectors.webhook import WebhookEndpoint, WebhookError
from daemon import metrics
from daemon.config.delivery import WebhookConfig
from daemon.errors import ConfigError
from daemon.records import utcnow
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.outbox import DeliveryState, Due

log = structlog.get_logger(__name__)

MAX_BACKOFF_S = 3600.0


class WebhookStage:
    name = "webhook"
    idle_s = 2.0

    def __init__(self, *, endpoint: WebhookEndpoint, config: WebhookConfig, store: Store) -> None:
        self._endpoint = endpoint
        self._config = config
        self._outbox = store.outbox

    @classmethod
    def connect(cls, config: WebhookConfig, *, secret: str, store: Store) -> WebhookStage:
        """Raises ConfigError when the secret is not one that can sign."""
        try:
            endpoint = WebhookEndpoint(config.url, secret=secret, timeout_s=config.timeout_s)
        except ValueError as exc:
            raise ConfigError(f"webhook.secret_env: {config.secret_env} {exc}") from exc
        return cls(endpoint=endpoint, config=config, store=store)

    def step(self, life: Life) -> Step:
        """One attempt for each event that is due; an endpoint that does not answer ends the round."""
        delivered = 0
        for due in self._outbox.due(self._config.events):
            if life.stopping:
                break
            try:
                self._endpoint.send(due.event.id, due.event.encode())
            except WebhookError as exc:
                self._failed(due, exc)
                break
            self._outbox.record(due, DeliveryState.DELIVERED)
            metrics.WEBHOOK_DELIVERIES.labels(outcome="delivered").inc()
            delivered += 1
        return self._said(delivered)

    def close(self) -> None:
        self._endpoint.close()

    def _failed(self, due: Due, exc: WebhookError) -> None:
        attempts = due.attempts + 1
        if exc.gone or attempts >= self._config.max_attempts:
            self._outbox.record(due, DeliveryState.DEAD, error=str(exc))
            metrics.WEBHOOK_DELIVERIES.labels(outcome="dead").inc()
            log.error("webhook_dead", event_id=due.event.id, type=due.event.type, attempts=attempts, error=str(exc))
            return
        wait_s = min(self._config.backoff_s * 2.0**due.attempts, MAX_BACKOFF_S)
        again = utcnow() + timedelta(seconds=wait_s)
        self._outbox.record(due, DeliveryState.WAITING, error=str(exc), next_attempt_at=again)
        metrics.WEBHOOK_DELIVERIES.labels(outcome="retried").inc()

    def _said(self, delivered: int) -> Step:
        backlog = self._outbox.backlog(self._config.events)
        metrics.WEBHOOK_WAITING.set(backlog.waiting)
        metrics.WEBHOOK_DEAD.set(backlog.dead)
        dead = f", {backlog.dead} were given up" if backlog.dead else ""
        if backlog.waiting or backlog.dead:
            sentence = f"{backlog.waiting} events wait{dead}; the endpoint said last: {backlog.last_error or 'nothing'}"
            return Step(sentence=sentence, worked=delivered > 0 and backlog.waiting > 0)
        return Step(sentence="every event was delivered", worked=False)
