"""Leader election: one daemon runs schedule, training and promotion; all daemons ingest and analyse reports."""

from __future__ import annotations

import threading
import time

import structlog

from daemon import metrics
from daemon.errors import StoreUnavailableError
from daemon.runtime.stage import Closable, Life, PausedWork, Stage, Step
from daemon.store import Control

log = structlog.get_logger(__name__)

LEASE_NAME = "leader"
TTL_S = 30.0
RENEW_INTERVAL_S = 5.0


class Leader:
    """Holds the leader lease, and renews it in its own thread while steps run."""

    def __init__(self, control: Control, owner: str) -> None:
        self._control = control
        self._owner = owner
        self._held_until = 0.0

    @property
    def held(self) -> bool:
        """False as soon as the lease may have expired, even if the database is unreachable."""
        return time.monotonic() < self._held_until

    def run(self, stop: threading.Event) -> None:
        """Renew until `stop`, then release the lease, so that another daemon can lead at once."""
        while not stop.is_set():
            self._renew()
            stop.wait(RENEW_INTERVAL_S)
        try:
            self._control.abdicate(LEASE_NAME, owner=self._owner)
        except StoreUnavailableError:
            log.warning("lease_not_given_up", owner=self._owner, until_s=TTL_S)

    def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            if self._control.lead(LEASE_NAME, owner=self._owner, ttl_s=TTL_S):
                # counted from before the request, with a margin: it must end here before it ends in the database
                self._held_until = asked_at + TTL_S - RENEW_INTERVAL_S
            else:
                self._held_until = 0.0
        except StoreUnavailableError as exc:
            log.warning("lease_not_renewed", owner=self._owner, error=str(exc))
        metrics.LEADER.set(int(self.held))


_STANDING_BY = Step(sentence="standing by: another daemon leads")


class LeaderOnly:
    """Wraps a stage: it steps only while this daemon is the leader."""

    def __init__(self, stage: Stage, leader: Leader) -> None:
        self.name = stage.name
        self.idle_s = stage.idle_s
        self._stage = stage
        self._leader = leader

    def step(self, life: Life) -> Step:
        return self._stage.step(life) if self._leader.held else _STANDING_BY

    def step_while_paused(self, life: Life) -> Step:
        if not self._leader.held:
            return _STANDING_BY
        stage = self._stage
        return stage.step_while_paused(life) if isinstance(stage, PausedWork) else Step(sentence="no step is made")

    def close(self) -> None:
        if isinstance(self._stage, Closable):
            self._stage.close()
