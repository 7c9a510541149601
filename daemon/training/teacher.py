"""The teacher: the frozen base model under another prompt. What it expects is computed once and kept in the run folder.

It does not depend on the adapter, so all passes, and an attempt after a kill, read the same numbers. A file holds one
batch; its name is a hash of the examples in it, and it is complete or absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from daemon.artifacts.files import write_atomically
from daemon.runtime.child import Stop
from daemon.training.batches import Encoded, Objective, fill, pad
from daemon.training.losses import log_probs, top_and_rest

LARGEST_ADVANTAGE = 5.0
"""Nats. Of one token, so that a single impossible word does not outweigh an answer."""


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout and gradients, in the precision of the training; afterwards as before."""
    training, dtype = model.training, model.dtype
    mixed = torch.autocast(model.device.type, dtype=dtype, enabled=dtype in {torch.bfloat16, torch.float16})
    model.eval()
    try:
        with torch.no_grad(), mixed:
            yield
    finally:
        model.train(training)


@contextmanager
def frozen_base(model: Any) -> Iterator[None]:
    """The same without the adapter."""
    with evaluating(model), model.disable_adapter():
        yield


def completion_logits(model: Any, rows: Sequence[Encoded], pad_id: int) -> list[torch.Tensor]:
    """The logits (float32) that predict each token of each row's completion."""
    padded = pad(rows, pad_id)
    inputs = {name: torch.tensor(padded[name], device=model.device) for name in ("input_ids", "attention_mask")}
    logits = model(**inputs, logits_to_keep=padded["logits_to_keep"]).logits[:, :-1]
    return [logits[row, logits.shape[1] - len(one.completion) :].float() for row, one in enumerate(rows)]


class TeacherCache:
    """What the teacher expects of the taught examples of one training.

    `top`: number of tokens kept for each position; None: the whole vocabulary.
    """

    def __init__(self, folder: Path, rows: Sequence[Encoded], *, batch_tokens: int, top: int | None) -> None:
        self._folder = folder
        self._top = top
        self._batches = [
            batch
            for objective in (Objective.TEACHER, Objective.HINDSIGHT)
            for batch in _batches([row for row in rows if row.objective is objective], batch_tokens)
        ]

    def fill(self, model: Any, *, pad_id: int, stop: Stop, rank: int = 0, ranks: int = 1) -> bool:
        """Ask the teacher about what is not in the folder yet: this process's share. False if stopped before."""
        for batch in self._batches[rank::ranks]:
            path = self._path(batch)
            if path.exists():
                continue
            if stop.is_set():
                return False
            with frozen_base(model):
                found = self._ask(model, batch, pad_id)
            write_atomically(path, save(found))
        return True

    def of(self, row: Encoded) -> dict[str, torch.Tensor]:
        """What is known of one example: `log_probs` and perhaps `indices`, or `advantage` and `sampled`."""
        path, number = self._places[row]
        with safe_open(path, framework="pt") as file:
            prefix = f"{number}."
            return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118 - no mapping

    def without_blame(self, floor: float) -> list[Encoded]:
        """Examples whose complaint takes less than `floor` (nats per token, on average) from the flagged answer."""
        return [row for row, blame in self._blames.items() if blame < floor]

    @property
    def mean_blame(self) -> float | None:
        """The mean over all of them, also over those below any floor; None without such examples."""
        return sum(self._blames.values()) / len(self._blames) if self._blames else None

    @cached_property
    def _blames(self) -> dict[Encoded, float]:
        rows = [row for batch in self._batches for row in batch if row.objective is Objective.HINDSIGHT]
        return {row: float(self.of(row)["advantage"].abs().mean()) for row in rows}

    @cached_property
    def _places(self) -> dict[Encoded, tuple[Path, int]]:
        return {row: (self._path(batch), number) for batch in self._batches for number, row in enumerate(batch)}

    def _path(self, batch: Sequence[Encoded]) -> Path:
        content = repr([self._top, [(row.objective, row.prompt, row.teacher, row.completion) for row in batch]])
        return self._folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"

    def _ask(self, model: Any, batch: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
        told = completion_logits(model, [replace(row, prompt=row.teacher) for row in batch], pad_id)
        if batch[0].objective is Objective.TEACHER:
            found = [self._expected(logits) for logits in told]
        else:
            plain = completion_logits(model, batch, pad_id)
            found = [_blame(row, *logits) for row, *logits in zip(batch, told, plain, strict=True)]
        return {
            f"{number}.{name}": value.cpu().contiguous()
            for number, one in enumerate(found)
            for name, value in one.items()
        }

    def _expected(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._top is None:
            return {"log_probs": log_probs(logits).half()}
        indices = logits.topk(min(self._top, logits.shape[-1] - 1)).indices
        return {"log_probs": top_and_rest(logits, indices).half(), "indices": indices.int()}


def _blame(row: Encoded, told: torch.Tensor, plain: torch.Tensor) -> dict[str, torch.Tensor]:
    """How much the complaint takes from each token of the answer, and the token's log-probability without it."""
    tokens = torch.tensor(row.completion, device=plain.device)[:, None]
    with_complaint, without = (log_probs(logits).gather(-1, tokens)[:, 0] for logits in (told, plain))
    return {"advantage": (with_complaint - without).clamp(-LARGEST_ADVANTAGE, 0.0), "sampled": without}


def _batches(rows: Sequence[Encoded], batch_tokens: int) -> list[tuple[Encoded, ...]]:
    """The different rows, sorted by the length that the teacher reads, in batches of padded size `batch_tokens`."""
    length = {row: max(len(row.prompt), len(row.teacher)) + len(row.completion) for row in rows}
    ordered = sorted(length, key=lambda row: (length[row], row.prompt, row.teacher, row.completion))
    indices = fill(range(len(ordered)), [length[row] for row in ordered], batch_tokens)
    return [tuple(ordered[index] for index in batch) for batch in indices if batch]


def kept_tokens(rows: Sequence[Encoded], *, vocabulary: int, on_cpu: bool, cache_bytes: int, top: int) -> int | None:
    """How many tokens to keep for each position; None (the whole vocabulary) on a CPU if that fits `cache_bytes`."""
    tokens = sum(len(row.completion) for row in {*rows} if row.objective is Objective.TEACHER)
    return None if on_cpu and tokens * vocabulary * torch.half.itemsize <= cache_bytes else top
