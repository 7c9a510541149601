"""How alike two texts are, as the cosine between their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, HashingVectorizer

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Vectors: TypeAlias = "csr_matrix | NDArray[np.float32]"
"""One row of length 1 per text: the product of two rows is their cosine similarity."""


class Comparison(Protocol):
    """A way of comparing texts. What a text's vector is depends on nothing but the text and the way."""

    def vectors(self, texts: Sequence[str]) -> Vectors: ...

    def forget_unused(self) -> None:
        """A run's dataset is written: what was kept of texts that it did not ask for may go."""
        ...


class Words:
    """By the words that two texts share. Words are hashed, so nothing is fitted and nothing has to be kept."""

    def vectors(self, texts: Sequence[str]) -> csr_matrix:
        return _VECTORIZER.transform(texts)

    def forget_unused(self) -> None:
        """Nothing is kept."""


def features(text: str) -> list[str]:
    """What two texts are compared by: their words without English function words.

    "What is the capital of France?" and "... of Spain?" share one of two features, not five of six words. Scripts
    without spaces are cut into pairs of characters.
    """
    found = _WORD.findall(text.casefold()) or [text.strip()]
    words = [feature for word in found for feature in _cut(word)]
    return [word for word in words if word not in ENGLISH_STOP_WORDS] or words


def _cut(word: str) -> list[str]:
    if len(word) < 3 or not _UNSPACED.search(word):
        return [word]
    return [word[start : start + 2] for start in range(len(word) - 1)]


_VECTORIZER = HashingVectorizer(analyzer=features, n_features=2**18, alternate_sign=False, norm="l2")


def cosines(rows: Vectors, others: Vectors) -> NDArray[np.float64]:
    """The similarity of each row (down) to each of the others (across)."""
    product: Any = rows @ others.T
    return np.asarray(product.toarray() if issparse(product) else product, dtype=np.float64)


def reaches(cosine: float, similarity: float) -> bool:
    """`cosine >= similarity`, forgiving the rounding that leaves identical texts at 0.9999999."""
    return bool(cosine >= similarity - 1e-6)


def resembling(texts: Sequence[str], others: Sequence[str], *, comparison: Comparison, similarity: float) -> list[bool]:
    """For each text, whether one of the others is as similar."""
    if not texts or not others:
        return [False] * len(texts)
    nearest = cosines(comparison.vectors(texts), comparison.vectors(others)).max(axis=1)
    return [reaches(cosine, similarity) for cosine in nearest]
