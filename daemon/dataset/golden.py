"""Golden pairs: ordinary questions with approved answers, used for training without change (method step 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from connectors.messages import Text
from daemon.artifacts.examples import Example, ExampleKind
from daemon.artifacts.jsonl import PromptLine, read_lines, sample, source_of
from daemon.dataset.replay import every_second_guided
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


def golden_pairs(
    path: Path | None,
    *,
    count: int,
    seed: int,
    guidance: str,
    held_out: Sequence[str] = (),
    vectorizer: Vectorizer,
    similarity: float,
) -> tuple[Example, ...]:
    """At most `count` pairs of the file, sampled with `seed`. Every second pair gets the guidance.

    Pairs with a question similar to one in `held_out` are excluded.

    Raises:
        ConfigError: if a line is invalid; the message gives file, line and field.
    """
    pairs = read_golden_pairs(path)
    asked = [str(pair.messages[-1]["content"]) for pair in pairs]
    leaks = resembling(asked, held_out, vectorizer=vectorizer, similarity=similarity)
    kept = [pair for pair, leak in zip(pairs, leaks, strict=True) if not leak]
    return every_second_guided(sample(kept, count, seed=seed), guidance)
