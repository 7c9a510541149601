"""Finds and takes out quotes of a text that is erased: in reasons of operators, errors, logs and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Any

import regex

from connectors.messages import FlaggedResponse

ERASED = "[erased]"
"""The replacement of a text that was erased."""
CLOSE_RUN, RUN = 3, 5
"""Words in a row that make a quote: in a text about the report, and in any other text."""
MIN_TELLING = 4
"""A single word of this length tells of the report, in a text about it, unless the word is an ordinary one."""
MIN_NEEDLE = 12
"""Characters of a text that is searched for in files; a shorter one is found by chance."""
MAX_NEEDLE = 60
MAX_NEEDLES = 40

_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|[\p{L}\p{M}\p{N}]+")
_ADDRESS = regex.compile(r"[^\s<>\"']+@[^\s<>\"']+|\+?\d[\d\s()./-]{5,}\d")
_ABOUT_ERASURE = frozenset(
    {
        "admin",
        "asked",
        "asks",
        "because",
        "deleted",
        "erase",
        "erased",
        "erasure",
        "gdpr",
        "mail",
        "obligation",
        "person",
        "privacy",
        "quote",
        "quoted",
        "received",
        "removal",
        "remove",
        "removed",
        "report",
        "reported",
        "request",
        "requested",
        "requests",
        "right",
        "their",
        "they",
        "user",
        "wants",
        "wrong",
    }
)


class Quotes:
    """The texts of one report."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [text for text in dict.fromkeys(texts) if text.strip()]
        words = [_words(text) for text in self._texts]
        self._words = {word for some in words for word in some}
        self._runs = {
            size: {tuple(some[start : start + size]) for some in words for start in range(len(some) - size + 1)}
            for size in (CLOSE_RUN, RUN)
        }
        self._addresses = {found for text in self._texts for found in _ADDRESS.findall(text)}

    @classmethod
    def of(cls, flagged: FlaggedResponse, *more: str | None) -> Quotes:
        """Of a report; `more`: texts that were made from it, such as its analysis."""
        kept = {"version", "id", "occurred_at", "model", "category", "severity", "locale", "not_trainable"}
        return cls([*_strings(flagged.model_dump(mode="json", exclude=kept)), *(text for text in more if text)])

    @property
    def texts(self) -> list[str]:
        return self._texts

    def close(self, text: str) -> str:
        """The text, which is about the report, with `ERASED` in place of each quote and telling word."""
        return self.without(text, run=CLOSE_RUN, words=True)

    def loose(self, text: str) -> str:
        """The text, which may be about anything, with `ERASED` in place of each long quote."""
        return self.without(text, run=RUN)

    def without(self, text: str, *, run: int = CLOSE_RUN, words: bool = False) -> str:
        """The text with `ERASED` for each quote of `run` words, and, if asked for, for single telling words."""
        for address in self._addresses:
            text = text.replace(address, ERASED)
        found = list(_WORD.finditer(text))
        said = [one[0].casefold() for one in found]
        marked = self._marked(said, run)
        if words:
            marked |= {place for place, word in enumerate(said) if self._tells(word)}
        return _replaced(text, found, sorted(marked))

    def needles(self) -> list[bytes]:
        """Pieces of the texts, as they may stand in files: plain, and with JSON's escapes."""
        pieces: dict[bytes, None] = {}
        for text in sorted(self._texts, key=len, reverse=True):
            for line in text.splitlines():
                piece = line.strip()[:MAX_NEEDLE]
                if len(piece) >= MIN_NEEDLE:
                    pieces |= dict.fromkeys((piece.encode(), json.dumps(piece)[1:-1].encode()))
        return list(pieces)[:MAX_NEEDLES]

    def _marked(self, words: list[str], size: int) -> set[int]:
        runs = self._runs[size]
        starts = (start for start in range(len(words) - size + 1) if tuple(words[start : start + size]) in runs)
        return {place for start in starts for place in range(start, start + size)}

    def _tells(self, word: str) -> bool:
        return len(word) >= MIN_TELLING and word in self._words and word not in _ordinary()


def _replaced(text: str, found: list[regex.Match[str]], marked: list[int]) -> str:
    """Neighbouring marked words, with what stands between them, become one `ERASED`."""
    for number in range(len(marked) - 1, -1, -1):
        end = found[marked[number]].end()
        if number + 1 < len(marked) and marked[number + 1] == marked[number] + 1:
            continue
        first = number
        while first and marked[first - 1] == marked[first] - 1:
            first -= 1
        text = f"{text[: found[marked[first]].start()]}{ERASED}{text[end:]}"
    return text


def _words(text: str) -> list[str]:
    return [found[0].casefold() for found in _WORD.finditer(text)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in {"role", "type"}:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


@cache
def _ordinary() -> frozenset[str]:
    """Words that tell nothing: those of the shipped ordinary prompts, and those of operators who erase."""
    path = resources.files("daemon") / "data" / "replay_prompts.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return frozenset(_words(" ".join(line["prompt"] for line in lines))) | _ABOUT_ERASURE
