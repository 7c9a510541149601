"""Waits between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_DOUBLINGS = 63
"""Prevents a float overflow; every practical limit is reached with fewer doublings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double with each failure up to a limit, in seconds."""

    first_s: float
    limit_s: float
    jitter: float = 0.0
    """Maximum share of a wait, from 0 to 1, that is randomly left out, to spread the retries of many clients."""

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number `attempt`, counted from 1."""
        wait_s = min(self.first_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS), self.limit_s)
        return wait_s * random.uniform(1.0 - self.jitter, 1.0)  # noqa: S311 - no secret
