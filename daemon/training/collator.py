"""Makes the tensors of one step. Imported by child processes only."""

from __future__ import annotations

from typing import Any

import torch

from daemon.training.batches import Share, pad
from daemon.training.teacher import TeacherCache


class Collator:
    """Pads one item of the training data, the share of one process in a batch, and adds what the teacher expects."""

    def __init__(self, pad_id: int, teacher: TeacherCache | None) -> None:
        self._pad_id = pad_id
        self._teacher = teacher

    def __call__(self, items: list[Share]) -> dict[str, Any]:
        share = items[0]
        padded = {**pad(share.rows, self._pad_id), "step": share.step, "total": share.total}
        tensors = {name: torch.tensor(rows) if isinstance(rows, list) else rows for name, rows in padded.items()}
        return tensors if self._teacher is None else {**tensors, **_taught(self._teacher, share, tensors["sampled"])}


def _taught(teacher: TeacherCache, share: Share, sampled: torch.Tensor) -> dict[str, torch.Tensor]:
    """The teacher's log-probabilities row after row, and the advantages in the columns of the labels."""
    known = [(number, teacher.of(row)) for number, row in enumerate(share.rows) if row.taught and row.completion]
    advantage = torch.zeros_like(sampled)
    for number, found in known:
        if "advantage" in found:
            tokens = len(found["advantage"])
            advantage[number, -tokens:], sampled[number, -tokens:] = found["advantage"], found["sampled"]
    columns = {
        f"teacher_{name}": torch.cat([found[name] for _, found in known if name in found])
        for name in ("log_probs", "indices")
        if any(name in found for _, found in known)
    }
    return {"advantage": advantage, "sampled": sampled, **columns}
