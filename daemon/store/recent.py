"""A value of the database that several parts of a daemon ask for all the time, and that rarely changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from daemon.store.commits import Commits

T = TypeVar("T")


class Recent(Generic[T]):
    """Remembers the value that was read last. Thread-safe."""

    def __init__(self, read: Callable[[], T], commits: Commits) -> None:
        self._read = read
        self._commits = commits
        self._last: tuple[float, int, T] | None = None

    def get(self, *, max_age_s: float) -> T:
        """The value. It is read anew if it is older, or if something was written since."""
        last, now, count = self._last, time.monotonic(), self._commits.count
        if last is not None and now - last[0] < max_age_s and last[1] == count:
            return last[2]
        value = self._read()
        self._last = now, count, value
        return value
