"""Sink of stage "webhook": one HTTP endpoint. Each refused event has its own wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.webhook import WebhookEndpoint, WebhookError
from daemon.config.delivery import WebhookConfig
from daemon.delivery.retries import Retries
from daemon.errors import ConfigError
from daemon.runtime.stage import Life
from daemon.store.outbox import Attempt, Backlog, Due, Sink, Subscription


class WebhookSink:
    name = "webhook"
    idle_s = 2.0
    batch = 100
    target = "the webhook"

    def __init__(self, *, endpoint: WebhookEndpoint, config: WebhookConfig) -> None:
        self._endpoint = endpoint
        self._retries = Retries(Sink.WEBHOOK, max_attempts=config.max_attempts, backoff_s=config.backoff_s)
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
                yield [self._retries.refused(one, str(exc), final=exc.gone)]
                return
            yield [self._retries.delivered(one)]

    def show(self, backlog: Backlog) -> None:
        self._retries.show(backlog)

    def close(self) -> None:
        self._endpoint.close()
