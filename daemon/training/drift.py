"""How far the trained model is from the base model on the prompts of lessons. Imported by child processes only.

The forgetting of other tasks follows this divergence (arXiv 2509.04259), and it needs no other data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from daemon.training.batches import Encoded, Objective, TrainingSet, fill
from daemon.training.losses import kl, log_probs
from daemon.training.teacher import completion_logits, evaluating, frozen_base

ROWS = 16
TOKENS = 32
"""Of each answer: the start, where it is decided what the answer will be."""


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

    def measure(self, model: Any, *, batch_tokens: int) -> float | None:
        """KL(base || trained) in nats per token, the mean over the lessons; None without lessons."""
        if not self._rows:
            return None
        batches = fill(range(len(self._rows)), [len(one) for one in self._rows], batch_tokens)
        found = [self._of_batch(model, [self._rows[index] for index in batch]) for batch in batches]
        return float(torch.cat(found).mean())

    def _of_batch(self, model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
        with frozen_base(model):
            base = completion_logits(model, rows, self._pad_id)
        with evaluating(model):
            trained = completion_logits(model, rows, self._pad_id)
        pairs = zip(base, trained, strict=True)
        return torch.stack([kl(log_probs(before), log_probs(now)).mean() for before, now in pairs]).cpu()
