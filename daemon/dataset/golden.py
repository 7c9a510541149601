"""Golden pairs: ordinary questions with answers that people approved, learned as they stand (method step 3)."""

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
    """One line of the file."""

    prompt: Text = Field(pattern=r"\S")
    answer: Text = Field(pattern=r"\S", description="An approved answer.")

    def example(self) -> Example:
        return Example(messages=self.messages, completion=self.answer.strip(), kind=ExampleKind.GOLDEN)


def read_golden_pairs(path: Path | None) -> list[Example]:
    """The pairs of a JSONL file, each once; None: the shipped one.

    Raises:
        ConfigError: naming the file, the line and the field.
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
    """At most `count` pairs of the file, drawn by `seed`, every second under `guidance`.

    None of their questions resembles one in `held_out`.

    Raises:
        ConfigError: naming the file, the line and the field.
    """
    pairs = read_golden_pairs(path)
    asked = [str(pair.messages[-1]["content"]) for pair in pairs]
    leaks = resembling(asked, held_out, vectorizer=vectorizer, similarity=similarity)
    kept = [pair for pair, leak in zip(pairs, leaks, strict=True) if not leak]
    return every_second_guided(sample(kept, count, seed=seed), guidance)
