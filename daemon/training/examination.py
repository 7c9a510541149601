"""`check-config`'s look at the model, from a child process: the daemon's process does not import torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.config import Config
from daemon.config.chat import ChatConfig
from daemon.config.serving import ModelConfig
from daemon.config.training import TrainingConfig
from daemon.runtime.child import environment

TIMEOUT_S = 120.0
"""It takes about 10 s; a busy machine or a slow disk takes longer."""
_TAIL = 600


class Examined(BaseModel):
    """Input of the child: the sections that decide whether this model can be trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig
    chat: ChatConfig
    training: TrainingConfig
    has_guidance: bool
    serves_on_gpu: bool
    """Whether this machine shall serve on a GPU."""


class Findings(BaseModel):
    """What the child found, each as `key: problem; remedy`. Notes are no problems."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: Self) -> Findings:
        return Findings(problems=self.problems + other.problems, notes=self.notes + other.notes)


def examine_model(config: Config, *, serves_on_gpu: bool) -> Findings:
    """Load the model without its weights, render conversations, and compare layers: the trainer's own code does it."""
    examined = Examined(
        model=config.model,
        chat=config.chat,
        training=config.training,
        has_guidance=bool(config.serving.guidance),
        serves_on_gpu=serves_on_gpu,
    )
    try:
        child = subprocess.run(
            [sys.executable, "-m", "daemon.training.model_check"],
            input=examined.model_dump_json().encode(),
            capture_output=True,
            env=environment(1),
            timeout=TIMEOUT_S,
            check=False,
        )
        return Findings.model_validate_json(child.stdout)
    except subprocess.TimeoutExpired:
        return Findings(problems=(f"model.path: the look at the model took over {TIMEOUT_S:g} s; try again",))
    except ValidationError:
        tail = child.stderr.decode(errors="replace")[-_TAIL:].strip()
        return Findings(problems=(f"model.path: the look at the model failed:\n{tail}",))
