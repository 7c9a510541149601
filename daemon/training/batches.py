"""Turns examples into padded batches. Their order depends only on the seed, so a resumed run continues exactly."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Self

from daemon.artifacts.examples import Example, ExampleKind
from daemon.chat.ids import Ids
from daemon.chat.template import ChatTemplate, Messages
from daemon.config.training import DistillationConfig, TrainingConfig
from daemon.errors import TrainingError, UnrenderableError
from daemon.labels import LEFT_OUT_TEXT, LeftOut

IGNORED = -100
"""Label of tokens without loss."""
_WINDOW = 64
"""Number of examples sorted by length together: less padding, while batches still mix the whole set."""


class Objective(IntEnum):
    """The loss of an example."""

    ANSWER = 0
    """Cross-entropy: the completion is the target."""
    BASE_KL = 1
    """KL divergence from the base model under the same prompt."""
    BASE = 2
    """Jensen-Shannon divergence from the base model under the same prompt."""
    TEACHER = 3
    """Jensen-Shannon divergence from the base model under the teacher's prompt."""
    HINDSIGHT = 4
    """The completion gets less likely at the tokens that a complaint in the teacher's prompt blames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Token ids of one example. The prompt's are those that the server makes; the completion's follow them."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    objective: Objective = Objective.ANSWER
    replay: bool = False
    """True for an answer of the base model itself: the epochs take turns with them."""
    report_id: str | None = None
    analyses: bool = False
    """True if the prompt asks for a judgement, so that it is no user's prompt."""
    teacher: tuple[int, ...] = ()
    """Token ids of the teacher's prompt."""
    weight: float = 1.0
    """Of the example, relative to others."""
    token_weights: tuple[float, ...] = ()
    """Of the completion's tokens, relative to each other; empty: all the same."""
    sampled: tuple[float, ...] = ()
    """Log-probabilities of the completion's tokens when they were sampled; empty: not known."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def taught(self) -> bool:
        """Whether the teacher must be asked before the training."""
        return self.objective in {Objective.TEACHER, Objective.HINDSIGHT}

    def weights(self) -> list[float]:
        """The weights of the completion's tokens. Their sum is that of the example, independent of its length."""
        relative = self.token_weights or (1.0,) * len(self.completion)
        total = sum(relative)
        return [self.weight * one / total for one in relative]


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
    left_out: Mapping[LeftOut, int]
    """Number of examples that are not trained, by reason. Too long ones among them: a cut one teaches wrong things."""
    left_out_reports: Mapping[str, LeftOut] = field(default_factory=dict)
    """Reports whose last example `without` took."""

    @property
    def skipped(self) -> int:
        return sum(self.left_out.values())

    @property
    def report_ids(self) -> tuple[str, ...]:
        """Reports with an example in a step of the plan, sorted."""
        return self.reports_of(itertools.chain(*self.plan))

    @property
    def taught(self) -> tuple[Encoded, ...]:
        """The examples of the plan that need the teacher."""
        return tuple(
            self.encoded[index] for index in sorted({*itertools.chain(*self.plan)}) if self.encoded[index].taught
        )

    def reports_of(self, indices: Iterable[int]) -> tuple[str, ...]:
        ids = {self.encoded[index].report_id for index in indices}
        return tuple(sorted(one for one in ids if one is not None))

    def first(self, steps: int) -> Self:
        """The training set of a training that ended after so many steps."""
        return replace(self, plan=self.plan[:steps])

    def without(self, examples: Collection[Encoded], reason: LeftOut) -> Self:
        """The training set without these examples. Steps with no other example are not made.

        Raises:
            TrainingError: if no example from a report is left.
        """
        taken = {*examples}
        dropped = {index for index, one in enumerate(self.encoded) if one in taken}
        if not dropped:
            return self
        steps = [tuple(index for index in step if index not in dropped) for step in self.plan]
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + len(dropped)}
        kept = replace(self, plan=tuple(step for step in steps if step), left_out=left_out)
        gone = dict.fromkeys(set(self.report_ids) - set(kept.report_ids), reason)
        kept = replace(kept, left_out_reports={**self.left_out_reports, **gone})
        if not kept.report_ids:
            raise _nothing_left(len(self.encoded), left_out, "lower training.distillation.hindsight_floor")
        return kept

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
        encoded: list[Encoded] = []
        left_out: Counter[LeftOut] = Counter()
        for example in examples:
            try:
                encoded.append(encode(template, example, config))
            except UnrenderableError as exc:
                left_out[LeftOut(exc.reason)] += 1
        if all(one.report_id is None for one in encoded):
            error = _nothing_left(len(examples), left_out, "change that key or the section chat")
            limit = f"max_sequence_tokens ({config.max_sequence_tokens})"
            raise TrainingError(str(error).replace("max_sequence_tokens", limit))
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
        return cls(encoded=tuple(encoded), plan=tuple(steps), left_out=left_out)

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


def _nothing_left(examples: int, left_out: Mapping[LeftOut, int], remedy: str) -> TrainingError:
    reasons = ", ".join(f"{count} {LEFT_OUT_TEXT[reason]}" for reason, count in left_out.items())
    return TrainingError(f"no example of a report is left of {examples}: {reasons}; {remedy}, and start a new run")


def encode(template: ChatTemplate, example: Example, config: TrainingConfig) -> Encoded:
    """The prompt by the chat template, up to the start of the answer; then the completion and its end token.

    Raises:
        UnrenderableError: if the example has no prompt or target, or more than `max_sequence_tokens` tokens, or if
            that is so under the teacher's prompt.
    """
    prompt, completion = _ids(template, example, example.messages, config.max_sequence_tokens)
    teacher: Ids = ()
    if example.teacher_messages is not None:
        teacher, same = _ids(template, example, example.teacher_messages, config.max_sequence_tokens)
        if same != completion:
            raise UnrenderableError(LeftOut.TEMPLATE_REFUSES, "the answer has other tokens after the teacher's prompt")
    completion = completion[: example.first_tokens]
    objective = _objective(example, config)
    sampled = example.sampled_logprobs or ()
    return Encoded(
        prompt=prompt,
        completion=completion,
        objective=objective,
        replay=example.kind is ExampleKind.REPLAY,
        report_id=example.report_id,
        analyses=example.kind is ExampleKind.ANALYSIS,
        teacher=teacher,
        weight=_weight(example, objective, config),
        token_weights=_token_weights(len(completion), config.distillation) if example.early else (),
        sampled=sampled if len(sampled) == len(completion) else (),  # else it was not sampled as these tokens
    )


def _ids(template: ChatTemplate, example: Example, messages: Messages, max_tokens: int) -> tuple[Ids, Ids]:
    prompt, completion = template.encode(messages, example.completion, ends=example.ends, by_model=example.by_model)
    if len(prompt) + len(completion) > max_tokens:
        raise UnrenderableError(LeftOut.TOO_LONG, f"{len(prompt) + len(completion)} tokens")
    return prompt, completion


def _objective(example: Example, config: TrainingConfig) -> Objective:
    if example.kind is ExampleKind.HINDSIGHT:
        return Objective.HINDSIGHT
    if example.teacher_messages is not None:
        return Objective.TEACHER
    if example.kind is not ExampleKind.REPLAY:
        return Objective.ANSWER
    return {"kl": Objective.BASE_KL, "distillation": Objective.BASE}.get(config.replay_loss, Objective.ANSWER)


def _weight(example: Example, objective: Objective, config: TrainingConfig) -> float:
    """An ordinary pair may count more than a lesson."""
    if objective is Objective.BASE_KL:
        return config.kl_weight
    ordinary = example.report_id is None and objective in {Objective.BASE, Objective.TEACHER}
    return config.distillation.ordinary_weight if ordinary else 1.0


def _token_weights(tokens: int, config: DistillationConfig) -> tuple[float, ...]:
    early = min(tokens, config.early_tokens)
    return (1.0,) * early + (config.late_weight,) * (tokens - early)


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
        batches += fill(window, lengths, batch_tokens)
    draw.shuffle(batches)
    return batches


def fill(ordered: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, ...]]:
    """The indices in batches whose padded size is at most `batch_tokens`. Their lengths must ascend."""
    batches: list[list[int]] = [[]]
    for index in ordered:  # lengths ascend, so the new example is the longest of its batch
        if batches[-1] and lengths[index] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return [tuple(batch) for batch in batches]


def pad(batch: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """Left-padded rows: all completions end in the last column. Only completion tokens have labels and weights.

    `logits_to_keep` is the number of last columns that need logits, starting one token before the longest completion.
    The model computes its output layer only for them. With a large vocabulary this saves much of the work and most of
    the memory. Labels, weights and log-probabilities have the same number of columns. So the logits of a completion are
    in the same columns, whatever the prompt before it.
    """
    width = max(len(encoded) for encoded in batch)
    kept = min(width, max(len(encoded.completion) for encoded in batch) + 1)
    rows: dict[str, Any] = {name: [] for name in ("input_ids", "attention_mask", "labels", "weights", "sampled")}
    for encoded in batch:
        gap, before = width - len(encoded), kept - len(encoded.completion)
        rows["input_ids"].append([*[pad_id] * gap, *encoded.prompt, *encoded.completion])
        rows["attention_mask"].append([0] * gap + [1] * len(encoded))
        rows["labels"].append([*[IGNORED] * before, *encoded.completion])
        rows["weights"].append([*[0.0] * before, *encoded.weights()])
        rows["sampled"].append([*[math.nan] * before, *(encoded.sampled or [math.nan] * len(encoded.completion))])
    return {**rows, "objectives": [int(encoded.objective) for encoded in batch], "logits_to_keep": kept}
