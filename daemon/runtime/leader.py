"""Leader election: one daemon runs schedule, training and promotion; all daemons ingest and analyse reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog

from connectors.vllm import DeposedError
from daemon import metrics
from daemon.errors import NotLeadingError, StoreUnavailableError
from daemon.runtime.stage import UNTIL_WRITTEN_S, Closable, Life, PausedWork, Stage, Step
from daemon.store import Control
from daemon.store.commits import Commits
from daemon.store.terms import Term, current_term, within

log = structlog.get_logger(__name__)

LEASE_NAME = "leader"
RENEWALS = 6
"""How often the lease is renewed in the time that it lasts."""


class Leader:
    """Holds the leader lease, and renews it in its own thread while steps run. `lease_s`: how long it lasts."""

    def __init__(self, control: Control, commits: Commits, owner: str, *, lease_s: float) -> None:
        """`commits`: the stages that rest until something is written begin, when this daemon becomes the leader."""
        self._control = control
        self._commits = commits
        self._owner = owner
        self._lease_s = lease_s
        self._interval_s = lease_s / RENEWALS
        self._number: int | None = None
        self._held_until = 0.0

    @property
    def term(self) -> Term | None:
        """The term of this daemon's leadership.

        None as soon as the lease may have expired, even if the database is unreachable.
        """
        number = self._number
        if number is None or time.monotonic() >= self._held_until:
            return None
        return Term(lease=LEASE_NAME, number=number)

    def run(self, stop: threading.Event) -> None:
        """Renew until `stop`, then release the lease, so that another daemon can lead at once."""
        while not stop.is_set():
            self._renew()
            stop.wait(self._interval_s)
        try:
            self._control.abdicate(LEASE_NAME, owner=self._owner)
        except StoreUnavailableError:
            log.warning("lease_not_given_up", owner=self._owner, until_s=self._lease_s)

    def _renew(self) -> None:
        asked_at, before = time.monotonic(), self.term
        try:
            number = self._control.lead(LEASE_NAME, owner=self._owner, ttl_s=self._lease_s, term=self._number)
            if number != self._number:
                log.info("term", owner=self._owner, began=number, ended=self._number)
            self._number = number
            # counted from before the request, with a margin: it must end here before it ends in the database
            self._held_until = asked_at + self._lease_s - self._interval_s
        except StoreUnavailableError as exc:
            log.warning("lease_not_renewed", owner=self._owner, error=str(exc))
        metrics.LEADER.set(int(self.term is not None))
        if self.term is not None and self.term != before:
            self._commits.note()


_STANDING_BY = Step(sentence="standing by: another daemon leads", rest_s=UNTIL_WRITTEN_S)


def current_number() -> int | None:
    """The number of the term of the work that this thread does; None for work that every daemon may do."""
    term = current_term()
    return None if term is None else term.number


class LeaderOnly:
    """Wraps a stage: it steps only while this daemon is the leader.

    A step that goes on after another daemon has begun to lead ends at its next write: the store and the servers refuse
    it, because it is of an earlier term.
    """

    def __init__(self, stage: Stage, leader: Leader) -> None:
        self.name = stage.name
        self.idle_s = stage.idle_s
        self._stage = stage
        self._leader = leader

    def step(self, life: Life) -> Step:
        return self._led(partial(self._stage.step, life))

    def step_while_paused(self, life: Life) -> Step:
        stage = self._stage
        if isinstance(stage, PausedWork):
            return self._led(partial(stage.step_while_paused, life))
        return self._led(lambda: Step(sentence="no step is made"))

    def _led(self, step: Callable[[], Step]) -> Step:
        term = self._leader.term
        if term is None:
            return _STANDING_BY
        try:
            with within(term):
                return step()
        except (NotLeadingError, DeposedError) as exc:
            log.warning("step_refused", stage=self.name, reason=str(exc))
            return _STANDING_BY

    def close(self) -> None:
        if isinstance(self._stage, Closable):
            self._stage.close()
