"""Similarity of two texts: the cosine between their vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Vectors: TypeAlias = "csr_matrix | NDArray[np.float32]"
"""One row per text, with norm 1: the product of two rows is their cosine similarity."""
WORDS_VERSION = 1
"""Of the numbers that `Words` gives to words. The store keeps them: whoever changes them raises this."""
TOLERANCE = 1e-6
"""Rounding gives identical texts a similarity of 0.9999999."""


class Vectorizer(Protocol):
    """Turns texts into vectors. The vector of a text depends only on the text and the vectorizer."""

    def vectors(self, texts: Sequence[str]) -> Vectors: ...

    def forget_unused(self) -> None:
        """Drop cached vectors that the current run did not use. Called when its dataset is written."""
        ...


class Words:
    """Compares texts by their common words. Words are hashed, so there is nothing to fit or to store."""

    def vectors(self, texts: Sequence[str]) -> csr_matrix:
        return _hashing().transform(texts)

    def forget_unused(self) -> None:
        """Nothing to do: there is no cache."""


def features(text: str) -> list[str]:
    """The words of a text without English function words.

    So "What is the capital of France?" and "... of Spain?" share one of two features, not five of six words. Texts in
    scripts without spaces are split into pairs of characters.
    """
    found = _WORD.findall(text.casefold()) or [text.strip()]
    words = [feature for word in found for feature in _cut(word)]
    return [word for word in words if word not in _stop_words()] or words


def _cut(word: str) -> list[str]:
    if len(word) < 3 or not _UNSPACED.search(word):
        return [word]
    return [word[start : start + 2] for start in range(len(word) - 1)]


# scikit-learn takes a second of CPU to import, and most commands compare nothing
@cache
def _hashing() -> HashingVectorizer:
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415

    return HashingVectorizer(analyzer=features, n_features=2**18, alternate_sign=False, norm="l2")


@cache
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # noqa: PLC0415

    return frozenset(ENGLISH_STOP_WORDS)


def cosines(rows: Vectors, others: Vectors) -> NDArray[np.float64]:
    """Matrix of similarities: entry (i, j) compares row i of `rows` with row j of `others`."""
    import numpy as np  # noqa: PLC0415 - with SciPy 0.2 s of CPU
    from scipy.sparse import issparse  # noqa: PLC0415

    product: Any = rows @ others.T
    return np.asarray(product.toarray() if issparse(product) else product, dtype=np.float64)


def reaches(cosine: float, similarity: float) -> bool:
    """`cosine >= similarity` with a tolerance."""
    return bool(cosine >= similarity - TOLERANCE)


def resembling(texts: Sequence[str], others: Sequence[str], *, vectorizer: Vectorizer, similarity: float) -> list[bool]:
    """For each text, whether at least one of the others reaches the similarity."""
    if not texts or not others:
        return [False] * len(texts)
    nearest = cosines(vectorizer.vectors(texts), vectorizer.vectors(others)).max(axis=1)
    return [reaches(cosine, similarity) for cosine in nearest]
