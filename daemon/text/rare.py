"""Rare phrases: word sequences of some texts that ordinary texts do not have. Pure functions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import regex

from daemon.text.words import normalised, words

Gram = tuple[str, ...]

RARE_WORDS = 4
"""So many words in a row are rare if ordinary texts lack one of them ..."""
LONG_WORDS = 8
"""... and so many if ordinary texts lack the sequence."""
SHORTEST = 2
"""Words of a text that is shorter than a sequence. A single word is what many answers have."""
DENSE = 3
"""Scripts without spaces count characters as words: their sequences have so many times as many."""
PHRASE_TOKENS = 5
MAX_TOKEN_CHARACTERS = 24
"""Longer tokens are cut: in scripts without spaces, a sentence is one token."""
_TOKEN = regex.compile(r"\S+")


class RareGrams:
    """The rare word sequences of texts, each with the numbers of the texts that have it."""

    def __init__(self, texts: Sequence[str], ordinary: Iterable[str]) -> None:
        known: set[str] = set()
        usual: set[Gram] = set()
        for text in ordinary:
            found = words(text)
            known.update(found)
            usual.update(gram for size in _sizes(found) for gram in _grams(found, size))
        self._owners: dict[Gram, set[int]] = defaultdict(set)
        for number, text in enumerate(texts):
            for gram in _rare(words(text), known, usual):
                self._owners[gram].add(number)
        self._lengths = {len(gram) for gram in self._owners}

    def found_in(self, text: str, *, besides: Iterable[str] = ()) -> set[int]:
        """The numbers of the texts of which `text` has a rare sequence that none of `besides` has."""
        grams = self._of(text) & self._owners.keys()
        for other in besides if grams else ():
            grams -= self._of(other)
        return {number for gram in grams for number in self._owners[gram]}

    def _of(self, text: str) -> set[Gram]:
        found = words(text)
        return {gram for size in self._lengths for gram in _grams(found, size)}


def rare_phrases(texts: Iterable[str], ordinary: Iterable[str], *, most: int) -> list[str]:
    """Runs of tokens that ordinary texts lack, as they are written. Those that most texts have come first.

    A run of more than `PHRASE_TOKENS` tokens is cut into several phrases.
    """
    usual = {token for text in ordinary for token in normalised(text).split()}
    written: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in texts:
        own = {normalised(phrase): phrase for phrase in _runs(text, usual)}
        counts.update(own.keys())
        written |= own
    order = sorted(counts.items(), key=lambda one: (-one[1], -len(one[0]), one[0]))
    return [written[plain] for plain, _ in order[:most]]


def _runs(text: str, usual: set[str]) -> Iterator[str]:
    tokens = [token[:MAX_TOKEN_CHARACTERS] for token in _TOKEN.findall(text)]
    for is_rare, run in groupby(tokens, key=lambda token: not set(normalised(token).split()) <= usual):
        if is_rare:
            whole = list(run)
            yield from (" ".join(whole[at : at + PHRASE_TOKENS]) for at in range(0, len(whole), PHRASE_TOKENS))


def _rare(found: Sequence[str], known: set[str], usual: set[Gram]) -> Iterator[Gram]:
    short, long = _sizes(found)
    for gram in _grams(found, min(short, max(len(found), SHORTEST))):
        if gram not in usual and any(word not in known for word in gram):
            yield gram
    yield from (gram for gram in _grams(found, long) if gram not in usual)


def _sizes(found: Sequence[str]) -> tuple[int, int]:
    dense = sum(len(word) == 1 and not word.isascii() for word in found) * 2 > len(found)
    factor = DENSE if dense else 1
    return RARE_WORDS * factor, LONG_WORDS * factor


def _grams(found: Sequence[str], size: int) -> Iterator[Gram]:
    return (tuple(found[start : start + size]) for start in range(len(found) - size + 1))
