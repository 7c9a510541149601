"""Shared code of the children that load torch."""

from __future__ import annotations

import os
import signal
import sys

from daemon.runtime.child import StopSignal


def test_a_signal_amid_the_handler_of_another_is_no_hindrance() -> None:
    before = signal.getsignal(signal.SIGTERM)
    left = iter(range(20))

    def again(*_: object) -> None:
        """Called at each call and return, so inside the handler, too."""
        if next(left, None) is not None:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        stop = StopSignal()
        assert not stop.is_set()
        sys.setprofile(again)
        os.kill(os.getpid(), signal.SIGTERM)
        sys.setprofile(None)
        assert stop.is_set()
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGTERM, before)
