"""Do two corrections say the same? By their words, so it errs towards "no".

A wrong word inside two long texts that are otherwise equal passes; a wrong number or a "not" does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from daemon.text.similarity import features, reaches
from daemon.text.words import words

MAX_CHARACTERS = 8_000
"""The beginning of a text that is compared; of a longer one only an identical text agrees."""
_NEGATIONS_TEXT = """
    no not never none nothing cannot without neither nor
    nicht kein keine keinen keiner keines nie niemals ohne
    ne pas jamais aucun aucune sans non mai nessun nessuna senza nunca ningún ninguna sin não nem sem nenhum
    niet geen nooit zonder не нет никогда без 不 没 未 无"""
_NEGATIONS = frozenset(_NEGATIONS_TEXT.split())


@dataclass(frozen=True, slots=True)
class _Wording:
    text: str
    features: frozenset[str]
    numbers: frozenset[str]
    negated: bool

    @classmethod
    def of(cls, text: str) -> Self:
        start = text[:MAX_CHARACTERS]
        found = frozenset(features(start))
        own = words(start)
        return cls(
            text=" ".join(text.split()).casefold(),
            features=found,
            numbers=frozenset(word for word in own if any(map(str.isdigit, word))),
            negated=any(word in _NEGATIONS or word.endswith("n't") for word in own),
        )


_wording = lru_cache(maxsize=4096)(_Wording.of)


def agree(one: str, other: str, question: str, *, similarity: float) -> bool:
    """Whether two corrections of the answer to one question say the same.

    The words that are not in the question must be similar (cosine): "The capital of Spain is Madrid" and "... is Rome"
    share most words, and none of the answer's own. Of the question's words, one must use none that the other lacks, or
    the other way round: "Rome, I think" and "Madrid, I think" differ if the question names both.
    """
    a, b = _wording(one), _wording(other)
    if a.text == b.text:
        return True
    if max(len(one), len(other)) > MAX_CHARACTERS or a.negated != b.negated or a.numbers != b.numbers:
        return False
    asked = _wording(question[-MAX_CHARACTERS:]).features
    chosen, others = a.features & asked, b.features & asked
    own, new = a.features - asked, b.features - asked
    if not own and not new:
        return chosen == others
    return (chosen <= others or others <= chosen) and reaches(_cosine(own, new), similarity)


def _cosine(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0
