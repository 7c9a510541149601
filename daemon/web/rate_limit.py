"""How often one caller may ask: a token bucket per caller, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_CALLERS = 10_000
"""More callers at once than this, and the one that asked longest ago is forgotten: it starts with a full bucket."""


class RateLimit:
    """At most `per_minute` calls of one caller at once, and as many per minute in the long run."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, caller: str) -> float:
        """Count a call: 0.0 where it may go on, else the seconds after which the next one may."""
        now = self._clock()
        with self._lock:
            left, at = self._buckets.pop(caller, (self._capacity, now))
            left = min(self._capacity, left + (now - at) * self._per_second)
            wait_s = 0.0 if left >= 1 else (1 - left) / self._per_second
            self._buckets[caller] = (left - 1 if wait_s == 0.0 else left, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        return wait_s
