"""Is an answer sound at all? Checks that hold for every answer, whatever the rules of a report say.

A rule such as "does not contain X" is met by an empty answer, by noise, by a refusal and by an answer about something
else. None of them fixes a mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from connectors.messages import FlaggedResponse
from daemon.categories import REFUSAL_IS_RIGHT, Kind, kind_of
from daemon.labels import Unsound
from daemon.text.refusal import refusal
from daemon.text.words import _ngrams, letter_share, normalised, stems, words

MAX_SAME_SENTENCES = 2
MIN_DISTINCT_SHARE = 0.5
"""Minimum share of distinct word 3-grams. Looping models are far below, normal prose is above 0.9."""
MIN_LETTER_SHARE = 0.4
"""Minimum share of letters and digits among the visible characters of an answer of words."""
MIN_TOPIC_STEMS = 8
"""An answer with as many content words shares at least one with its conversation or its correction."""
MIN_LANGUAGE_WORDS = 8
MIN_LANGUAGE_PROBABILITY = 0.9
"""Of shorter texts, and below this probability, the language is not told."""

SENTENCE_END = regex.compile(r"[.!?…।]+[\"'”’)\]]*(?=\s|$)|[。！？]+[」』”]*")  # noqa: RUF001 - Chinese and Japanese marks
_CHARACTER_RUN = regex.compile(r"([^\s.\-_=])\1{11,}")
_ANALYSIS_TALK = regex.compile(
    r"""\b(?:earlier|previous|prior|flagged)\s(?:answer|response|reply)\b
      | ^\W*(?:this|the|that|my)\s(?:answer|response|reply)\s
        (?: (?:is|was)\s(?:\w+ly\s|not\s|too\s|very\s|an?\s)*
            (?:bad|wrong|incorrect|inaccurate|false|misleading|mistaken|inappropriate|offensive|harmful|unsafe|unethical
              |dangerous|problematic|unhelpful|irrelevant|incomplete|insufficient|poor|good|correct|acceptable
              |appropriate|helpful|accurate|mistake|example)\b
          | (?:fails?|failed|ignores?|ignored|obeys?|obeyed|reveals?|revealed|contains?|contained|violates?|violated)\b
          | (?:does|did|has|had)\snot\b
          | should\s(?:not|have)\b )
      | ^\W*(?:a\sgood|a\sbetter|here\sis\s(?:a|an|the|my)(?:\s\w+)?)\s(?:answer|response|reply)\b
      | \bapologi[sz]e\sfor\s(?:the|my|any)\s(?:earlier|previous|confusion|mistake|error|oversight)\b""",
    regex.VERBOSE,
)
_ASKED_ABOUT = regex.compile(
    r"\b(?:this|that|the|my|your|his|her|their|following|previous)\s(?:answer|response|reply)\b"
)
"""A question about an answer, which may be answered by talking about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What an answer is compared with."""

    conversation: Sequence[str]
    """The texts of the conversation, oldest first; the last one is the question."""
    flagged: str = ""
    """The answer that was flagged."""
    correction: str | None = None
    kind: Kind = Kind.DEFAULT


def asked_by(flagged: FlaggedResponse, *, correction: str | None) -> Asked:
    """What answers to a report's question are compared with."""
    return Asked(
        conversation=[message.text for message in flagged.messages],
        flagged=flagged.response,
        correction=correction,
        kind=kind_of(flagged.category),
    )


def unsound(answer: str, asked: Asked) -> Unsound | None:
    """The first fault of the answer, or None. Pure; a long answer costs some milliseconds."""
    return next((fault for fault, has_it in _CHECKS.items() if has_it(answer, asked)), None)


def repeats_itself(text: str) -> bool:
    """Whether the text is a loop: of one character, of sentences, or of words."""
    plain = normalised(text)
    sentences = Counter(part.strip() for part in SENTENCE_END.split(plain) if len(part.split()) > 1)
    grams = _ngrams(words(plain), 3)
    return (
        _CHARACTER_RUN.search(plain) is not None
        or max(sentences.values(), default=0) > MAX_SAME_SENTENCES
        or (len(grams) >= 10 and len(set(grams)) < MIN_DISTINCT_SHARE * len(grams))
    )


def is_analysis_talk(text: str) -> bool:
    """Whether the text talks about an answer instead of giving one. English only."""
    return _ANALYSIS_TALK.search(normalised(text)) is not None


def _talks_about_answers(answer: str, asked: Asked) -> bool:
    return is_analysis_talk(answer) and not any(map(_ASKED_ABOUT.search, map(normalised, asked.conversation[-1:])))


def _is_noise(answer: str, asked: Asked) -> bool:
    """Signs instead of words, where neither the flagged answer nor the correction is of that form (code, a table)."""
    reference = asked.correction or asked.flagged
    return letter_share(answer) < MIN_LETTER_SHARE <= letter_share(reference)


def _may_refuse(asked: Asked) -> bool:
    return asked.kind in REFUSAL_IS_RIGHT or (asked.correction is not None and refusal(asked.correction) is not None)


def _is_off_topic(answer: str, asked: Asked) -> bool:
    """Words of another language say nothing about the topic: the answer may be a translation."""
    languages = {_language(text) for text in (answer, *asked.conversation[-1:], asked.correction or "")} - {None}
    found = stems(answer)
    known = stems(" ".join([*asked.conversation, asked.correction or ""]))
    return len(languages) < 2 and len(found) >= MIN_TOPIC_STEMS and bool(known) and not found & known


def _is_in_another_language(answer: str, asked: Asked) -> bool:
    """Compared with the correction; without one, with the question and the flagged answer (it may be a translation)."""
    expected = [asked.correction] if asked.correction else [*asked.conversation[-1:], asked.flagged]
    languages = {_language(text) for text in expected}
    found = _language(answer)
    return found is not None and None not in languages and found not in languages


def _language(text: str) -> str | None:
    if len(words(text)) < MIN_LANGUAGE_WORDS:
        return None
    language, probability = _identifier().classify(text)
    return str(language) if probability >= MIN_LANGUAGE_PROBABILITY else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415 - its model takes 2 s to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


_CHECKS: Mapping[Unsound, Callable[[str, Asked], bool]] = {
    Unsound.EMPTY: lambda answer, _asked: not words(answer),
    Unsound.DEGENERATE: lambda answer, asked: repeats_itself(answer) or _is_noise(answer, asked),
    Unsound.SAME_ANSWER: lambda answer, asked: normalised(answer) == normalised(asked.flagged),
    Unsound.REFUSAL: lambda answer, asked: not _may_refuse(asked) and refusal(answer) is not None,
    Unsound.ANALYSIS_TALK: _talks_about_answers,
    Unsound.LANGUAGE: _is_in_another_language,
    Unsound.OFF_TOPIC: _is_off_topic,
}
"""The checks in their order."""
