"""Turns examples into padded batches. Their order depends only on the seed, so a resumed run continues exactly."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from daemon.artifacts.examples import Example, ExampleKind
from daemon.chat.template import ChatTemplate
from daemon.config.training import TrainingConfig
from daemon.errors import TrainingError, UnrenderableError
from daemon.labels import LEFT_OUT_TEXT, LeftOut

IGNORED = -100
"""Label of tokens without loss."""
_WINDOW = 64
"""Number of examples sorted by length together: less padding, while batches still mix the whole set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Token ids of one example. The prompt's are those that the server makes; the completion's follow them."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    replay: bool = False
    """True for an answer of the base model itself. Its loss is set by `training.replay_loss`."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of one step's batch that one process trains."""

    step: int
    rows: tuple[Encoded, ...]
    total: int
    """Number of examples in the whole batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The encoded examples, and the indices of the examples in each optimiser step."""

    encoded: tuple[Encoded, ...]
    plan: tuple[tuple[int, ...], ...]
    report_ids: tuple[str, ...]
    """Reports with an example in a step of the plan, sorted."""
    left_out: Mapping[LeftOut, int]
    """Number of examples that are not trained, by reason. Too long ones among them: a cut one teaches wrong things."""

    @property
    def skipped(self) -> int:
        return sum(self.left_out.values())

    @classmethod
    def build(
        cls,
        template: ChatTemplate,
        examples: Sequence[Example],
        config: TrainingConfig,
        *,
        seed: int,
        replay_per_epoch: int | None = None,
    ) -> Self:
        """Encode the examples and plan the steps.

        An epoch uses all examples, except replay: it uses the next `replay_per_epoch` replay pairs (None: all).

        Raises:
            TrainingError: if no example from a report is left.
        """
        kept: list[tuple[Example, Encoded]] = []
        left_out: Counter[LeftOut] = Counter()
        for example in examples:
            try:
                kept.append((example, encode(template, example, max_tokens=config.max_sequence_tokens)))
            except UnrenderableError as exc:
                left_out[LeftOut(exc.reason)] += 1
        if all(example.report_id is None for example, _ in kept):
            reasons = ", ".join(f"{count} {LEFT_OUT_TEXT[reason]}" for reason, count in left_out.items())
            reasons = reasons.replace("max_sequence_tokens", f"max_sequence_tokens ({config.max_sequence_tokens})")
            raise TrainingError(
                f"no example of a report is left of {len(examples)}: {reasons}; change that key or the section chat, "
                "and start a new run"
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
            steps = limit_tokens(steps, lengths, config.max_tokens)
        return cls(
            encoded=encoded,
            plan=tuple(steps),
            report_ids=_reports(kept[index][0] for index in set(itertools.chain(*steps))),
            left_out=left_out,
        )

    def shares(self, processes: int) -> list[Share]:
        """Every step's batch, divided between the processes: step after step, and in each step process after process.

        Each process thus makes every step of the plan, with any number of processes.
        """
        return [
            Share(step=step, rows=_rows(batch, process, processes), total=len(batch))
            for step, batch in enumerate([self.encoded[index] for index in indices] for indices in self.plan)
            for process in range(processes)
        ]


def _rows(batch: Sequence[Encoded], process: int, processes: int) -> tuple[Encoded, ...]:
    """The examples of one process. Without any, it computes the shortest one, without a loss: all make each step."""
    shortest = min(batch, key=len)
    idle = Encoded(prompt=(*shortest.prompt, *shortest.completion), completion=())
    return tuple(batch[process::processes]) or (idle,)


def _reports(examples: Iterable[Example]) -> tuple[str, ...]:
    return tuple(sorted({example.report_id for example in examples if example.report_id is not None}))


def encode(template: ChatTemplate, example: Example, *, max_tokens: int) -> Encoded:
    """The prompt by the chat template, up to the start of the answer; then the completion and its end token.

    Raises:
        UnrenderableError: if the example has no prompt or target, or more than `max_tokens` tokens.
    """
    prompt, completion = template.encode(
        example.messages, example.completion, ends=example.ends, by_model=example.by_model
    )
    if len(prompt) + len(completion) > max_tokens:
        raise UnrenderableError(LeftOut.TOO_LONG, f"{len(prompt) + len(completion)} tokens")
    return Encoded(prompt=prompt, completion=completion, replay=example.kind is ExampleKind.REPLAY)


def plan(
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    epochs: float,
    seed: int,
    replay: Sequence[int] = (),
    replay_per_epoch: int | None = None,
) -> list[tuple[int, ...]]:
    """The example indices of every optimiser step, epoch after epoch. Half an epoch is half of its steps.

    The padded size of a batch (longest example times number of examples) is at most `batch_tokens`. An example longer
    than that is a batch alone. Each epoch takes the next `replay_per_epoch` examples of `replay`, in rotation.
    """
    always = sorted(set(range(len(lengths))) - set(replay))
    share = len(replay) if replay_per_epoch is None else min(replay_per_epoch, len(replay))
    turns = itertools.cycle(replay)
    steps: list[tuple[int, ...]] = []
    for epoch in range(math.ceil(epochs)):
        order = [*always, *itertools.islice(turns, share)]
        draw = random.Random(f"{seed}/{epoch}")  # noqa: S311 - must be repeatable
        batches = _epoch(order, lengths, batch_tokens, draw)
        part = min(1.0, epochs - epoch)
        steps += batches[: max(1, round(part * len(batches)))]
    return steps


def limit_tokens(steps: Sequence[tuple[int, ...]], lengths: Sequence[int], max_tokens: int) -> list[tuple[int, ...]]:
    """The first steps with at most `max_tokens` tokens in total (prompt and completion), but at least one step."""
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
    for index in ordered:  # lengths ascend, so the new example is the longest of its batch
        if batches[-1] and lengths[index] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return [tuple(batch) for batch in batches]


def pad(batch: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """Left-padded rows: all completions end in the last column. Only completion tokens have labels.

    `logits_to_keep` is the number of last columns that need logits, starting one token before the longest completion.
    The model computes its output layer only for them. With a large vocabulary this saves much of the work and most of
    the memory. The labels have the same number of columns.
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
