"""How the loss went, in few enough points to be kept with the run and drawn in the console."""

from __future__ import annotations

from collections.abc import Iterable

from daemon.training.job import TrainingProgress

MAX_POINTS = 200


class LossCurve:
    """Points of (step, loss) in order; every second one goes when there are too many."""

    def __init__(self, points: Iterable[Iterable[float]] = ()) -> None:
        self.points: list[list[float]] = [list(point) for point in points]

    def add(self, progress: TrainingProgress) -> None:
        """A step that an attempt makes again after a crash takes the place of the earlier one."""
        if progress.loss is None:
            return
        self.points = [point for point in self.points if point[0] < progress.step]
        self.points.append([progress.step, round(progress.loss, 4)])
        if len(self.points) > MAX_POINTS:
            self.points = [*self.points[:-1:2], self.points[-1]]
