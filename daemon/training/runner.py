"""Where the trainer runs: the interface of `training.runner`, and the choice between its kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from daemon.config.training import TrainingConfig
from daemon.training.job import TrainingJob
from daemon.training.kubernetes_runner import KubernetesRunner
from daemon.training.process import LocalRunner
from daemon.training.ray_runner import RayRunner


class Attempt(Protocol):
    """One start of the trainer. Its string names the process or job."""

    @property
    def waits(self) -> str | None:
        """Why the trainer does not work yet, for people; None if it works."""
        ...

    def ended(self) -> str | None:
        """How the trainer ended, such as "exited with code 1"; None while it runs or its place does not answer.

        Raises:
            TrainingError: if its place has not answered for too long.
        """
        ...

    def resident_bytes(self) -> int:
        """Memory of the trainer on this machine."""
        ...

    def stop(self) -> None:
        """Let the trainer write a checkpoint, then end it with all its workers. Harmless if it has ended."""
        ...


class Runner(Protocol):
    """Starts trainers in one kind of place. Each writes checkpoints, progress and adapter where the job says."""

    poll_s: float
    """Seconds between two looks at a trainer."""

    def busy(self, run_folder: Path) -> bool:
        """Whether a trainer works on the run that `start` cannot adopt."""
        ...

    def start(self, job: TrainingJob) -> Attempt:
        """Start the trainer, or adopt the one that an earlier daemon started.

        Raises:
            OSError: if it cannot be started.
            RunnerUnavailableError: if its place does not answer. The next step tries again.
            TrainingError: if its place has not answered for too long.
        """
        ...

    def forget(self, run_folder: Path) -> bool:
        """Stop a trainer that an earlier daemon left working on a run that has ended since; whether there was one.

        Raises:
            RunnerUnavailableError, TrainingError: as `start`.
        """
        ...


def make_runner(config: TrainingConfig) -> Runner:
    """The runner that `training.runner` names."""
    match config.runner:
        case "ray":
            return RayRunner(config.ray)
        case "kubernetes":
            return KubernetesRunner(config.kubernetes)
        case "local":
            return LocalRunner(config.launcher)
