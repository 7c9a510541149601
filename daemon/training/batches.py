"""From examples to padded batches, in an order that the seed alone decides: a resumed run goes on where it was."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from daemon.artifacts.examples import Example, ExampleKind
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError

IGNORED = -100
"""The label that carries no loss."""
_WINDOW = 64
"""Examples sorted by length together: less padding, while batches still mix what the whole set holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Token ids of one example; the boundary is exact because both sides are encoded on their own."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    replay: bool = False
    """The base model's own answer: what is learned from it is set by `training.replay_loss`."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What is trained on: the encoded examples, and which of them each optimiser step takes."""

    encoded: tuple[Encoded, ...]
    plan: tuple[tuple[int, ...], ...]
    report_ids: tuple[str, ...]
    """Reports whose examples are among them, sorted."""
    skipped: int
    """Examples longer than max_sequence_tokens: cutting them would train on a torn conversation."""

    @classmethod
    def build(
        cls,
        tokenizer: Any,
        examples: Sequence[Example],
        config: TrainingConfig,
        *,
        seed: int,
        replay_per_epoch: int | None = None,
    ) -> Self:
        """Each epoch takes every example, but of the replay `replay_per_epoch` pairs in turn (None: all).

        Raises:
            TrainingError: when no example from a report is short enough.
        """
        pairs = [(example, encode(tokenizer, example)) for example in examples]
        kept = [(example, encoded) for example, encoded in pairs if len(encoded) <= config.max_sequence_tokens]
        report_ids = {example.report_id for example, _ in kept if example.report_id is not None}
        if not report_ids:
            raise TrainingError(
                f"each of the {len(examples)} examples is longer than training.max_sequence_tokens "
                f"({config.max_sequence_tokens}); raise it and start a new run"
            )
        encoded = tuple(encoded for _, encoded in kept)
        lengths = [len(one) for one in encoded]
        steps = plan(
            lengths,
            batch_tokens=config.batch_tokens,
            epochs=config.epochs,
            seed=seed,
            replay=[index for index, one in enumerate(encoded) if one.replay],
            replay_per_epoch=replay_per_epoch,
        )
        if config.max_tokens is not None:
            steps = within(steps, lengths, config.max_tokens)
        return cls(
            encoded=encoded,
            plan=tuple(steps),
            report_ids=tuple(sorted(report_ids)),
            skipped=len(pairs) - len(kept),
        )


def encode(tokenizer: Any, example: Example) -> Encoded:
    """The prompt as the chat template opens the assistant's turn, then the completion and the end-of-answer token."""
    prompt = tokenizer.apply_chat_template(
        [dict(message) for message in example.messages], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    end = [tokenizer.eos_token_id] if example.ends else []
    return Encoded(
        prompt=tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"]),
        completion=(*ids, *end),
        replay=example.kind is ExampleKind.REPLAY,
    )


def plan(
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    epochs: float,
    seed: int,
    replay: Sequence[int] = (),
    replay_per_epoch: int | None = None,
) -> list[tuple[int, ...]]:
    """Every optimiser step's example indices, all epochs in a row; a last part of an epoch makes part of its steps.

    A batch's padded size (its longest example times its examples) stays within `batch_tokens`, except that one longer
    example is a batch by itself. Of the examples `replay`, an epoch takes the `replay_per_epoch` whose turn it is.
    """
    always = sorted(set(range(len(lengths))) - set(replay))
    share = len(replay) if replay_per_epoch is None else min(replay_per_epoch, len(replay))
    turns = itertools.cycle(replay)
    steps: list[tuple[int, ...]] = []
    for epoch in range(math.ceil(epochs)):
        order = [*always, *itertools.islice(turns, share)]
        draw = random.Random(f"{seed}/{epoch}")  # noqa: S311 - has to be repeatable
        batches = _epoch(order, lengths, batch_tokens, draw)
        part = min(1.0, epochs - epoch)
        steps += batches[: max(1, round(part * len(batches)))]
    return steps


def within(steps: Sequence[tuple[int, ...]], lengths: Sequence[int], max_tokens: int) -> list[tuple[int, ...]]:
    """The first steps whose tokens (prompt and completion) stay within the bound, but at least one."""
    totals = itertools.accumulate(sum(lengths[index] for index in step) for step in steps)
    return [step for step, total in zip(steps, totals, strict=True) if total <= max_tokens] or [steps[0]]


def _epoch(order: list[int], lengths: Sequence[int], batch_tokens: int, draw: random.Random) -> list[tuple[int, ...]]:
    draw.shuffle(order)
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(order), _WINDOW):
        window = sorted(order[start : start + _WINDOW], key=lambda index: lengths[index])
        batches += _fill(window, lengths, batch_tokens)
    draw.shuffle(batches)
    return batches


def _fill(ordered: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    batches: list[list[int]] = [[]]
    for index in ordered:  # ascending length: the newest is the longest
        if batches[-1] and lengths[index] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return [tuple(batch) for batch in batches]


def pad(batch: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """Left-padded rows, so that all completions end in the last column; only completions carry labels.

    `logits_to_keep`: the columns from the first completion token's predecessor on. The model computes its output layer
    for these only: with a large vocabulary that is a good part of the work and most of the memory. Labels have as many.
    """
    width = max(len(encoded) for encoded in batch)
    kept = min(width, max(len(encoded.completion) for encoded in batch) + 1)
    rows: dict[str, Any] = {"input_ids": [], "attention_mask": [], "labels": [], "replay": [], "logits_to_keep": kept}
    for encoded in batch:
        gap = width - len(encoded)
        rows["input_ids"].append([*[pad_id] * gap, *encoded.prompt, *encoded.completion])
        rows["attention_mask"].append([0] * gap + [1] * len(encoded))
        rows["labels"].append([*[IGNORED] * (kept - len(encoded.completion)), *encoded.completion])
        rows["replay"].append(encoded.replay)
    return rows
