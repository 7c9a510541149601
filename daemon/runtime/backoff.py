"""Waits between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_DOUBLINGS = 63
"""More would leave the range of a float in the end, and no first wait needs as many to reach its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double with each failure up to a limit, in seconds."""

    first_s: float
    limit_s: float
    jitter: float = 0.0
    """Largest share of a wait that is left out by chance, from 0 to 1: retries of many come apart."""

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        wait_s = min(self.first_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS), self.limit_s)
        return wait_s * random.uniform(1.0 - self.jitter, 1.0)  # noqa: S311 - no secret
