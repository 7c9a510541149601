"""A rate limit per caller: token buckets in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException

MAX_CALLERS = 10_000
"""Above this number the least recent caller is forgotten. It starts again with a full bucket."""


class RateLimit:
    """A burst of at most `per_minute` calls per caller, and the same number per minute on average."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, caller: str, *, count: bool = True) -> float:
        """Count a call, or only look. Returns 0.0 if it is allowed, else the seconds until the next allowed call."""
        now = self._clock()
        with self._lock:
            left, at = self._buckets.pop(caller, (self._capacity, now))
            left = min(self._capacity, left + (now - at) * self._per_second)
            wait_s = 0.0 if left >= 1 else (1 - left) / self._per_second
            self._buckets[caller] = (left - 1 if count and wait_s == 0.0 else left, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
        return wait_s


def refuse_for(wait_s: float) -> None:
    """Raises HTTPException 429, with the seconds to wait, unless they are 0."""
    if wait_s > 0:
        after = {"Retry-After": str(math.ceil(wait_s))}
        raise HTTPException(429, f"too many requests; retry in {math.ceil(wait_s)} s", after)
