"""Stage "outbox": deletes old events that every configured sink has delivered or given up."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.config.delivery import OutboxConfig
from daemon.runtime.stage import Life, Step
from daemon.store import Store
from daemon.store.outbox import PRUNE, Subscription


class OutboxStage:
    """Never deletes an event that still waits for a configured sink."""

    name = "outbox"
    idle_s = 60.0

    def __init__(self, *, store: Store, config: OutboxConfig, subscriptions: Sequence[Subscription]) -> None:
        self._outbox = store.outbox
        self._config = config
        self._subscriptions = subscriptions

    def step(self, _life: Life) -> Step:
        retention_s = self._config.retention_s
        deleted = self._outbox.prune(older_than_s=retention_s, subscriptions=self._subscriptions)
        if not deleted:
            return Step(sentence=f"no event older than {retention_s / 86400:.3g} days is left to delete")
        return Step(
            sentence=f"deleted {deleted} events older than {retention_s / 86400:.3g} days", worked=deleted == PRUNE
        )
