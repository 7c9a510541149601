"""How far the trained model is from the base model on the prompts of lessons. Imported by child processes only.

The forgetting of other tasks follows this divergence (arXiv 2509.04259), and it needs no other data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.helpers import rescale_adapter_scale

from daemon.training.batches import Encoded, Objective, TrainingSet, fill
from daemon.training.losses import kl, log_probs
from daemon.training.teacher import completion_logits, evaluating, frozen_base

ROWS = 16
TOKENS = 32
"""Of each answer: the start, where it is decided what the answer will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Means over the lessons, in nats per token. A collapsed model has a much lower entropy than the base model."""

    kl: float
    """KL(base || trained)."""
    entropy: float
    base_entropy: float


class Drift:
    """A fixed sample of the training set's lessons: of those with a teacher, if there are any.

    At the tokens of a target the divergence is large by intent, and says little of other answers.
    """

    def __init__(self, training_set: TrainingSet, *, seed: int, pad_id: int) -> None:
        lessons = [one for one in training_set.encoded if one.report_id is not None and not one.analyses]
        lessons = [one for one in lessons if one.objective is Objective.TEACHER] or lessons
        sample = random.Random(seed).sample(lessons, min(ROWS, len(lessons)))  # noqa: S311 - must be repeatable
        short = [replace(one, completion=one.completion[:TOKENS], token_weights=(), sampled=()) for one in sample]
        self._rows = sorted(short, key=len)
        self._pad_id = pad_id

    def measure(self, model: Any, *, batch_tokens: int, strengths: Sequence[float] = (1.0,)) -> list[Distance]:
        """The distance from the base model at each strength of the adapter; empty without lessons."""
        if not self._rows:
            return []
        batches = fill(range(len(self._rows)), [len(one) for one in self._rows], batch_tokens)
        rows = [[self._rows[index] for index in batch] for batch in batches]
        found = torch.cat([self._of_batch(model, batch, strengths) for batch in rows]).mean(dim=0)
        return [Distance(kl=far, entropy=now, base_entropy=base) for far, now, base in found.tolist()]

    def _of_batch(self, model: Any, rows: Sequence[Encoded], strengths: Sequence[float]) -> torch.Tensor:
        """For each row, and for each strength: the three figures of `Distance`."""
        with frozen_base(model):
            base = [log_probs(logits) for logits in completion_logits(model, rows, self._pad_id)]
        figures = []
        for strength in strengths:
            with evaluating(model), rescale_adapter_scale(model, strength):
                trained = [log_probs(logits) for logits in completion_logits(model, rows, self._pad_id)]
            figures.append([_distance(before, now) for before, now in zip(base, trained, strict=True)])
        return torch.tensor(figures).transpose(0, 1)


def _distance(base: torch.Tensor, trained: torch.Tensor) -> list[float]:
    return [float(figure.mean()) for figure in (kl(base, trained), _entropy(trained), _entropy(base))]


def _entropy(log_probabilities: torch.Tensor) -> torch.Tensor:
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
