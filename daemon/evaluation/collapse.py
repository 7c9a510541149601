"""Meters of collapse: a model that has lost its variety says the same to different prompts. Pure.

They are shown and decide nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from daemon.evaluation.comparison import PASS_SUITES, ArmScores

_WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""Signs of scripts without spaces count as words."""
_SEQUENCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Variety:
    """Shares over an arm's guided answers to tasks; None without words."""

    distinct: float | None
    """Different pairs of adjacent words among all such pairs (distinct-2)."""
    overlap: float | None
    """Sequences of four words that also stand in the answer to another item."""


def variety(arm: ArmScores) -> Variety:
    texts: dict[tuple[str, str], list[str]] = {}
    for answer in arm.answers.values():
        if answer.guided and answer.suite in PASS_SUITES:
            words = _WORDS.findall(answer.text.lower())
            texts.setdefault((answer.suite, answer.item_id), []).extend([*words, ""])
    return Variety(distinct=_distinct(texts.values()), overlap=_overlap(texts))


def _distinct(texts: Iterable[list[str]]) -> float | None:
    pairs = [pair for words in texts for pair in pairwise(words) if "" not in pair]
    return len(set(pairs)) / len(pairs) if pairs else None


def _overlap(texts: Mapping[tuple[str, str], list[str]]) -> float | None:
    found = {item: [seq for seq in _sequences(words) if "" not in seq] for item, words in texts.items()}
    items_with = Counter(sequence for sequences in found.values() for sequence in set(sequences))
    every = [sequence for sequences in found.values() for sequence in sequences]
    return sum(items_with[sequence] > 1 for sequence in every) / len(every) if every else None


def _sequences(words: list[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_SEQUENCE)), strict=False)
