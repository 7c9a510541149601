"""A value of the database that several parts of a daemon ask for all the time, and that rarely changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Remembers the value that was read last. Thread-safe."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._last: tuple[float, T] | None = None
        self._changed_at = -math.inf

    def get(self, *, max_age_s: float) -> T:
        """The value. It is read anew if it is older, or if this process has changed it since."""
        last, now = self._last, time.monotonic()
        if last is not None and now - last[0] < max_age_s and last[0] > self._changed_at:
            return last[1]
        value = self._read()
        self._last = now, value
        return value

    def changed(self) -> None:
        """This process has changed the value."""
        self._changed_at = time.monotonic()
