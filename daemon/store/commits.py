"""Commits to the database that may have made work for a stage. Nobody has to ask the database while there are none."""

from __future__ import annotations

import threading


class Commits:
    """Counts them. Thread-safe. Those of this process are counted at once, others when `Changes.look` finds them."""

    def __init__(self) -> None:
        self._counted = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        return self._count

    def note(self) -> None:
        """Count one, and wake all who wait."""
        with self._counted:
            self._count += 1
            self._counted.notify_all()

    def wait(self, *, after: int, timeout_s: float) -> None:
        """Wait until there are more than `after`, at most `timeout_s`."""
        with self._counted:
            self._counted.wait_for(lambda: self._count > after, timeout_s)
