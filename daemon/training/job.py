"""Messages between the finetune stage and its child process: a job file in, a progress file out, and a lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.artifacts.base_layers import BaseLayers
from daemon.artifacts.files import write_atomically
from daemon.config.chat import ChatConfig
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError
from daemon.labels import LeftOut
from daemon.runtime.lock import try_lock

PROGRESS_FILE = "progress.json"
LOG_FILE = "train.log"
LOCK_FILE = "train.lock"
STOP_FILE = "train.stop"
"""Where no signal reaches the trainer, this file asks it to write a checkpoint and end."""
CHECKPOINTS = "checkpoints"
TEACHER = "teacher"
"""Folder of what the teacher expects."""
EXIT_REFUSED = 65
EXIT_BUSY = 75
"""Another trainer holds the run."""
EXIT_STOPPED = 79
"""Ended early on a stop, with a checkpoint."""
COMPLETE_MARK = "COMPLETE"
"""Written last into a checkpoint. A checkpoint without it was interrupted by a kill."""
ENDED_EARLY = b"ended early"
"""Content of the mark of a checkpoint after which no further step must be made."""


class Phase(StrEnum):
    """State of the child; the last three are final."""

    LOADING = "loading"
    TEACHER = "teacher"
    """Asking the frozen base model under the teachers' prompts."""
    TRAINING = "training"
    DONE = "done"
    STOPPED = "stopped"
    REFUSED = "refused"


class TrainingJob(BaseModel):
    """`job.json`: all input of the child. Written once per run, so every attempt makes the same steps."""

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
    chat: ChatConfig = ChatConfig()
    """Jobs of earlier versions have none."""
    trust_remote_code: bool = False

    @cached_property
    def layers(self) -> BaseLayers:
        """The layers of the base model. Raises ConfigError."""
        return BaseLayers.read(self.model_path)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The modules that the adapter trains. Raises ConfigError if this model cannot hold them."""
        return self.layers.choose(self.training.target_modules)

    @property
    def adapter_folder(self) -> Path:
        return self.adapters_dir / self.name

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises TrainingError if the job is missing or invalid."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as exc:
            raise TrainingError(f"{path} is not a training job: {exc}") from exc


class TrainingProgress(BaseModel):
    """`progress.json`: the latest state of the child. `reason` explains a refusal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: Phase = Phase.LOADING
    first_step: int = 0
    """First step of this attempt; above 0 after a resume."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens: int = 0
    """Tokens trained in this attempt, prompt and completion."""
    tokens_per_s: float | None = None
    eta_s: float | None = None
    skipped: int = 0
    """Number of examples left out: too long, or without a prompt and target under the chat template."""
    left_out: Mapping[LeftOut, int] = {}
    """The same by reason."""
    kl_to_base: float | None = None
    """KL(base || trained) on lessons' prompts (nats per token), measured last."""
    entropy: float | None = None
    """Entropy of the next token on lessons' prompts (nats), measured last."""
    hindsight_advantage: float | None = None
    """How much the complaints take from flagged answers: mean |A|, nats per token."""
    reason: str | None = None

    def __str__(self) -> str:
        if self.phase is Phase.LOADING:
            return "loads the model and the examples"
        left = "" if self.eta_s is None else f", about {self.eta_s:.0f} s left"
        return f"trains, step {self.step} of {self.steps}, {self.tokens} tokens{left}"

    def save(self, run_folder: Path) -> None:
        write_atomically(run_folder / PROGRESS_FILE, self.model_dump_json().encode())

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        """The progress saved last, or a new one if none was saved."""
        try:
            return cls.model_validate_json((run_folder / PROGRESS_FILE).read_bytes())
        except FileNotFoundError:
            return cls()


def ended_early(checkpoint: Path) -> bool:
    """Whether no further step must be made after this checkpoint."""
    return (checkpoint / COMPLETE_MARK).read_bytes() == ENDED_EARLY


@contextmanager
def run_lock(run_folder: Path) -> Iterator[bool]:
    """Hold the training lock of the run; yields False if another process holds it. The kernel frees it on any exit."""
    lock = try_lock(run_folder / LOCK_FILE)
    with lock or nullcontext():
        yield lock is not None


MAX_POINTS = 200


class LossCurve:
    """Points (step, loss) in order. Above MAX_POINTS, every second point is dropped."""

    def __init__(self, points: Iterable[Iterable[float]] = ()) -> None:
        self.points: list[list[float]] = [list(point) for point in points]

    def add(self, progress: TrainingProgress) -> None:
        """Add the latest loss. A step repeated after a crash replaces the earlier point."""
        if progress.loss is None:
            return
        self.points = [point for point in self.points if point[0] < progress.step]
        self.points.append([progress.step, round(progress.loss, 4)])
        if len(self.points) > MAX_POINTS:
            self.points = [*self.points[:-1:2], self.points[-1]]
