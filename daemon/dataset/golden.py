"""Golden pairs: ordinary questions with approved answers, used for training without change (method step 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from connectors.messages import Text
from daemon.artifacts.examples import Example, ExampleKind
from daemon.artifacts.jsonl import PromptLine, read_lines, sample, source_of
from daemon.dataset.replay import every_second_guided
from daemon.dataset.usable import Usable
from daemon.labels import LeftOut
from daemon.text.similarity import Vectorizer, resembling


class GoldenPair(PromptLine):
    """One line of the golden pairs file."""

    prompt: Text = Field(pattern=r"\S")
    answer: Text = Field(pattern=r"\S", description="An approved answer.")

    def example(self) -> Example:
        return Example(messages=self.messages, completion=self.answer.strip(), kind=ExampleKind.GOLDEN)


def read_golden_pairs(path: Path | None) -> list[Example]:
    """The pairs of a JSONL file without duplicates, or the pairs shipped with erratad if `path` is None.

    Raises:
        ConfigError: if a line is invalid; the message gives file, line and field.
    """
    source = source_of(path, "golden_pairs.jsonl")
    lines = read_lines("dataset.golden_pairs", source, GoldenPair, what="pair")
    return list({example.id: example for example in (line.example() for _, line in lines)}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenPairs:
    """The pairs of one run, and the number of those that cannot be used, by reason."""

    pairs: tuple[Example, ...] = ()
    left_out: Mapping[LeftOut, int] = field(default_factory=dict)

    @property
    def by_kind(self) -> dict[str, Mapping[LeftOut, int]]:
        return {ExampleKind.GOLDEN.value: self.left_out} if self.left_out else {}


def golden_pairs(
    path: Path | None,
    *,
    count: int,
    seed: int,
    guidance: str,
    held_out: Sequence[str] = (),
    vectorizer: Vectorizer,
    similarity: float,
    usable: Usable | None = None,
) -> GoldenPairs:
    """At most `count` usable pairs (None: all are) of the file, sampled with `seed`. Every second gets the guidance.

    Pairs with a question similar to one in `held_out` are excluded.

    Raises:
        ConfigError: if a line is invalid; the message gives file, line and field.
    """
    pairs = read_golden_pairs(path)
    asked = [str(pair.messages[-1]["content"]) for pair in pairs]
    leaks = resembling(asked, held_out, vectorizer=vectorizer, similarity=similarity)
    kept = [pair for pair, leak in zip(pairs, leaks, strict=True) if not leak]
    left_out: Counter[LeftOut] = Counter()
    if usable is not None and count:
        usable.read_examples(kept)
        refusals = [usable.why_not_example(pair) for pair in kept]
        left_out.update(one.reason for one in refusals if one is not None)
        kept = [pair for pair, refusal in zip(kept, refusals, strict=True) if refusal is None]
    return GoldenPairs(pairs=every_second_guided(sample(kept, count, seed=seed), guidance), left_out=left_out)
