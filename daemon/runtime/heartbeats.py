"""The heartbeats of all stages of one daemon: one write for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from daemon.errors import StoreUnavailableError
from daemon.store import Control

HEARTBEAT_INTERVAL_S = 5.0


class Heartbeats:
    """Collects what the stages say, and writes it every HEARTBEAT_INTERVAL_S, or at once for news. Thread-safe.

    It has no thread of its own: the stage that finds a write due makes it, with the words of all others.
    """

    def __init__(self, control: Control, *, owner: str) -> None:
        self._control = control
        self._owner = owner
        self._lock = threading.Lock()
        self._waiting: dict[str, str] = {}
        self._written_at = -HEARTBEAT_INTERVAL_S

    def beat(self, stage: str, sentence: str, *, at_once: bool = False) -> None:
        """Record that a stage lives, and its sentence. `at_once`: others should see the sentence without delay.

        Raises:
            StoreUnavailableError: It was this stage's turn to write, and the database is away. Nothing is lost: the
                next heartbeat of any stage writes again.
        """
        with self._lock:
            self._waiting[stage] = sentence
            now = time.monotonic()
            if not at_once and now - self._written_at < HEARTBEAT_INTERVAL_S:
                return
            due, self._waiting, self._written_at = self._waiting, {}, now
        # without the lock: a database that hangs must not make the stages wait for each other
        try:
            self._control.heartbeat(due, owner=self._owner)
        except StoreUnavailableError:
            self._put_back(due)
            raise

    def _put_back(self, due: Mapping[str, str]) -> None:
        with self._lock:
            self._waiting = {**due, **self._waiting}
            self._written_at = -HEARTBEAT_INTERVAL_S
