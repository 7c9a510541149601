"""Words, stems and n-grams of texts in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import regex

NGRAM_WORDS = 5

MIN_STEM_CHARACTERS = 3

# scripts without spaces between words; each character counts as one word
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"

_WORD = regex.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}])+(?:'\p{{L}}+)*")

_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}]")

_UNSPACED_RUN = regex.compile(rf"{_UNSPACED}+")

_SPACED_WORD = regex.compile(rf"(?:(?!{_UNSPACED})[\p{{L}}\p{{M}}\p{{N}}])+")

_STOP_WORDS = """
    a about after all also an and any are as asked at bad be because been but by can could did do does don down for from
    get give given gives good had has have he her him his how i if in into is it its just like made make me more most my
    no not of on one only or other our out over please really said same say says she should so some such than that the
    their them then there these they thing this those to too up us user users very was way we were what when where which
    while who why will with would wrong you your answer answered answers response responses reply model assistant ai bot
    chatbot"""

_STOPS = frozenset(_STOP_WORDS.split())

_SUFFIXES = (
    *("ations", "ation", "ously", "ments", "ment", "fully", "ings", "ions", "ous", "ful", "ing", "ion", "ies", "ied"),
    *("ers", "ed", "er", "es", "ly", "al", "s", "e", "y"),
)


def words(text: str) -> list[str]:
    """The words in lower case. In scripts without spaces, each character is a word."""
    return _WORD.findall(normalised(text))


def letter_share(text: str) -> float:
    """Share of letters, marks and digits among the visible characters; 1 without any."""
    visible = "".join(text.split())
    return len(_LETTER.findall(visible)) / len(visible) if visible else 1.0


def overlap(text: str, source: str) -> float:
    """Share of the word 5-grams of `text` that occur in `source`. A shorter text counts as one n-gram."""
    own, others = words(text), words(source)
    size = min(NGRAM_WORDS, len(own))
    if size == 0:
        return 0.0
    grams, known = _ngrams(own, size), set(_ngrams(others, size))
    return sum(gram in known for gram in grams) / len(grams)


def stems(text: str) -> set[str]:
    """Content words without common English endings. In scripts without spaces: pairs of characters."""
    plain = normalised(text)
    spaced = {word for word in _SPACED_WORD.findall(plain) if word not in _STOPS and len(word) > 1}
    runs = _UNSPACED_RUN.findall(plain)
    pairs = {run[start : start + 2] for run in runs for start in range(max(1, len(run) - 1))}
    return {_stem(word) for word in spaced} | pairs


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= MIN_STEM_CHARACTERS:
            return word[: -len(suffix)]
    return word


def _ngrams(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]


_TYPOGRAPHIC = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "–": "-", "—": "-"})  # noqa: RUF001


def normalised(text: str) -> str:
    """The text in the form used for comparisons: Unicode's compatibility caseless form (D146), composed."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", visible).casefold()).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).translate(_TYPOGRAPHIC).split())
