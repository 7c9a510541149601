"""Stage "outbox": deletes old events that every sink is done with."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.messages import EventType
from daemon.config.delivery import OutboxConfig
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.outbox import PRUNE


class OutboxStage:
    """An event that Kafka or the webhook has still to take is never deleted."""

    name = "outbox"
    idle_s = 60.0

    def __init__(self, *, store: Store, config: OutboxConfig, kafka: bool, webhook: Sequence[EventType]) -> None:
        self._store = store
        self._config = config
        self._kafka = kafka
        self._webhook = webhook

    def step(self, _life: Life) -> Step:
        retention_s = self._config.retention_s
        deleted = self._store.outbox.prune(older_than_s=retention_s, kafka=self._kafka, webhook=self._webhook)
        if not deleted:
            return Step(sentence=f"no event older than {retention_s:.0f} s is left to delete")
        return Step(sentence=f"deleted {deleted} events older than {retention_s:.0f} s", worked=deleted == PRUNE)
