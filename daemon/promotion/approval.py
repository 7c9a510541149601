"""How long a candidate waits for a person."""

from __future__ import annotations

from datetime import datetime

from daemon.records import Run, RunState

WAITS_SINCE = "waits_for_approval_since"
"""In the progress of a run: when its candidate began to wait for a person's approval (Unix time)."""


def approval_waits_s(active: Run | None, now: datetime) -> float | None:
    """How long the candidate of the active run waits for a person's approval; None: none does."""
    since = None if active is None or active.state is not RunState.PROMOTING else active.progress.get(WAITS_SINCE)
    return None if since is None else max(0.0, now.timestamp() - since)
