"""The loss of a batch: cross-entropy, and divergences from the frozen base model. Imported by child processes only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from daemon.training.batches import IGNORED, Objective

LOWEST = -1e4
"""Log-probabilities are at least this (nats), so that an impossible token costs nothing instead of NaN."""


class Teacher(NamedTuple):
    """What the teacher expects at some tokens: log-probabilities (nats), one row for each token.

    `indices` are the tokens of the columns, and one more column has the mass of all others. None: the whole vocabulary.
    """

    log_probs: torch.Tensor
    indices: torch.Tensor | None = None

    @classmethod
    def kept(cls, values: torch.Tensor, indices: torch.Tensor | None) -> Teacher:
        """From float16: rounding changed the sum of the probabilities."""
        return cls(values.float().log_softmax(-1), None if indices is None else indices.long())

    def of_student(self, logits: torch.Tensor) -> torch.Tensor:
        """The student's log-probabilities in the teacher's columns."""
        return log_probs(logits) if self.indices is None else top_and_rest(logits, self.indices)


def log_probs(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).clamp(min=LOWEST)


def top_and_rest(logits: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the tokens in `indices`, and in one more column of all others together."""
    total = logits.logsumexp(-1, keepdim=True)
    rest = logits.scatter(-1, indices, -math.inf).logsumexp(-1, keepdim=True)
    return (torch.cat([logits.gather(-1, indices), rest], dim=-1) - total).clamp(min=LOWEST)


def kl(of: torch.Tensor, from_: torch.Tensor) -> torch.Tensor:
    """KL(of || from_) for each row of log-probabilities, in nats."""
    return functional.kl_div(from_, of, reduction="none", log_target=True).sum(-1)


def divergence(student: torch.Tensor, teacher: torch.Tensor, alpha: float) -> torch.Tensor:
    """Generalised Jensen-Shannon divergence for each row of log-probabilities, in nats.

    alpha KL(teacher || m) + (1 - alpha) KL(student || m), where m is the mixture with the share alpha of the teacher
    (arXiv 2306.13649, as in GKDTrainer of TRL). The ends are KL divergences: 0 is KL(teacher || student), 1 is
    KL(student || teacher).
    """
    if alpha == 0:
        return kl(teacher, student)
    if alpha == 1:
        return kl(student, teacher)
    mixture = torch.logaddexp(student + math.log1p(-alpha), teacher + math.log(alpha))
    return alpha * kl(teacher, mixture) + (1 - alpha) * kl(student, mixture)


def importance(now: torch.Tensor, sampled: torch.Tensor, limit: float) -> torch.Tensor:
    """How much likelier a token is now than when it was sampled, without a gradient; 1 where `sampled` is NaN."""
    ratio = (now.detach() - sampled).exp().clamp(max=limit)
    return torch.where(sampled.isnan(), torch.ones_like(ratio), ratio)


class Batch(NamedTuple):
    """What the loss needs to know of a batch; each tensor has the columns of the logits.

    `advantage` (at most 0, nats): how much the complaint takes from a token's log-probability.
    """

    labels: torch.Tensor
    weights: torch.Tensor
    objectives: torch.Tensor
    sampled: torch.Tensor
    advantage: torch.Tensor | None
    teacher: Teacher | None

    @classmethod
    def take(cls, inputs: dict[str, Any]) -> Batch:
        """Take what is no input of the model out of the collator's batch."""
        columns = {name: inputs.pop(name)[:, 1:] for name in ("labels", "weights", "sampled")}
        advantage, indices = inputs.pop("advantage", None), inputs.pop("teacher_indices", None)
        values = inputs.pop("teacher_log_probs", None)
        return cls(
            **columns,
            objectives=inputs.pop("objectives"),
            advantage=None if advantage is None else advantage[:, 1:],
            teacher=None if values is None else Teacher.kept(values, indices),
        )

    def tokens(self, *objectives: Objective) -> torch.Tensor:
        """Which tokens have one of these losses."""
        rows = torch.isin(
            self.objectives, torch.tensor([int(one) for one in objectives], device=self.objectives.device)
        )
        return (self.labels != IGNORED) & rows[:, None]


def batch_loss(
    logits: torch.Tensor,
    batch: Batch,
    *,
    alpha: float,
    ratio_limit: float,
    base: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The sum of the examples' losses. `base` gives the base model's log-probabilities at the tokens of a mask."""
    chosen = batch.tokens(Objective.ANSWER)
    loss = functional.cross_entropy(logits[chosen], batch.labels[chosen], reduction="none") @ batch.weights[chosen]
    if (chosen := batch.tokens(Objective.BASE_KL)).any():
        loss = loss + kl(base(chosen), log_probs(logits[chosen])) @ batch.weights[chosen]
    if (chosen := batch.tokens(Objective.BASE)).any():
        loss = loss + divergence(log_probs(logits[chosen]), base(chosen), alpha) @ batch.weights[chosen]
    if batch.teacher is not None and (chosen := batch.tokens(Objective.TEACHER)).any():
        per_token = divergence(batch.teacher.of_student(logits[chosen]), batch.teacher.log_probs, alpha)
        now = -functional.cross_entropy(logits[chosen].detach(), batch.labels[chosen], reduction="none")
        ratio = importance(now, batch.sampled[chosen], ratio_limit)
        loss = loss + (per_token * ratio) @ batch.weights[chosen]
    if batch.advantage is not None and (chosen := batch.tokens(Objective.HINDSIGHT)).any():
        now = -functional.cross_entropy(logits[chosen], batch.labels[chosen], reduction="none")
        ratio = importance(now, batch.sampled[chosen], ratio_limit)
        loss = loss + (-batch.advantage[chosen] * ratio * now) @ batch.weights[chosen]
    return loss
