"""Where an evaluation is: figures of its run, and a sentence."""

from __future__ import annotations

import time
from collections.abc import Mapping

from daemon.adapter_names import FULL_STRENGTH
from daemon.records import Run
from daemon.store import Runs


class EvaluationProgress:
    """Progress of an evaluation, as shown by `erratad status`. `seconds` is the sum over restarts."""

    def __init__(
        self,
        runs: Runs,
        run: Run,
        *,
        done: int,
        total: int,
        left_out: Mapping[str, Mapping[str, int]],
        strength: float,
    ) -> None:
        self._runs = runs
        self._strength = strength
        self._run_id = run.id
        self._done = done
        self._total = total
        self._left_out = left_out
        self._before_s = seconds_of(run)
        self._started = time.monotonic()
        self._first = done
        self.advance(0)

    def __str__(self) -> str:
        asked = self._done - self._first
        left_s = (time.monotonic() - self._started) / asked * (self._total - self._done) if asked else None
        left = "" if left_s is None else f", about {left_s:.0f} s left"
        weaker = "" if self._strength == FULL_STRENGTH else f" strength {self._strength:g}"
        return f"measures{weaker}, {self._done} of {self._total} answers{left}"

    def advance(self, count: int) -> None:
        self._done += count
        seconds = self._before_s + time.monotonic() - self._started
        figures = {"done": self._done, "total": self._total, "seconds": round(seconds, 3), "left_out": self._left_out}
        self._runs.progress(self._run_id, {"evaluation": figures})


def seconds_of(run: Run) -> float:
    return float(run.progress.get("evaluation", {}).get("seconds", 0.0))
