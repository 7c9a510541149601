"""Wakes the stages of this daemon after writes of other processes: daemons, and the command line."""

from __future__ import annotations

import threading

from daemon.errors import StoreUnavailableError
from daemon.store import Changes

LOOK_S = 1.0
"""What another process wrote is found after this time at the latest."""


def look_out(changes: Changes, stop: threading.Event) -> None:
    """Look every LOOK_S until `stop`, and wake the stages then, too. What is written in an outage is found after it."""
    while not stop.wait(LOOK_S):
        try:
            changes.look()
        except StoreUnavailableError:  # the stages that need the database say so
            continue
    changes.commits.note()
