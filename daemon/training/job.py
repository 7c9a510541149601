"""What the finetune stage and its child process tell each other: one job in, progress out, one lock between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.artifacts.files import write_atomically
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError
from daemon.runtime.lock import try_lock

JOB_FILE = "job.json"
PROGRESS_FILE = "progress.json"
LOG_FILE = "train.log"
LOCK_FILE = "train.lock"
CHECKPOINTS = "checkpoints"
COMPLETE_MARK = "COMPLETE"
"""Written into a checkpoint after everything else: one without it was cut short by a kill."""


class Phase(StrEnum):
    """Where the child stands; the last three are ends."""

    LOADING = "loading"
    TRAINING = "training"
    DONE = "done"
    STOPPED = "stopped"
    REFUSED = "refused"


class TrainingJob(BaseModel):
    """`job.json`: everything the child needs. Written once per run, so that every attempt makes the same steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: int
    generation: int
    name: str
    recipe: str
    seed: int
    run_folder: Path
    adapters_dir: Path
    model_path: Path
    base_fingerprint: str
    training: TrainingConfig

    @property
    def adapter_folder(self) -> Path:
        return self.adapters_dir / self.name

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises TrainingError when there is no readable job."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise TrainingError(f"{path} is not a training job: {exc}") from exc


class TrainingProgress(BaseModel):
    """`progress.json`: the child's latest word; `reason` says why it refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: Phase = Phase.LOADING
    first_step: int = 0
    """Where this attempt began: above 0 after a resume."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens: int = 0
    """Trained on by this attempt, prompt and completion."""
    tokens_per_s: float | None = None
    eta_s: float | None = None
    skipped: int = 0
    """Examples longer than max_sequence_tokens."""
    reason: str | None = None

    def save(self, run_folder: Path) -> None:
        write_atomically(run_folder / PROGRESS_FILE, self.model_dump_json().encode())

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        """What was saved last; a fresh one when nothing was."""
        try:
            return cls.model_validate_json((run_folder / PROGRESS_FILE).read_bytes())
        except FileNotFoundError:
            return cls()


@contextmanager
def run_lock(run_folder: Path) -> Iterator[bool]:
    """Hold the run's training lock; yields False where another process holds it. The kernel frees it at any death."""
    lock = try_lock(run_folder / LOCK_FILE)
    with lock or nullcontext():
        yield lock is not None


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
