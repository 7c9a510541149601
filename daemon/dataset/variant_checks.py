"""Whether another wording of a flagged question may be trained with the same answer: pure, and rather too strict.

Nobody approves a wording. So it has to keep what the question is about, by rules that need no judgement:

- names, numbers and quoted text are the same, and so is whether it negates and whether it ends in a question mark (an
  answer to the question does not);
- three quarters of the question's content words stand in it (all of them, in a question of up to three);
- of the words of the correction, and of the phrases that the checks name, it holds just those that the question holds:
  a correction may hang on the words it takes from the question, and a wording must not give the answer away.

What stays open: a name in lower case that is swapped in a question of four content words or more.
"""

from __future__ import annotations

from collections.abc import Iterator

import regex

from connectors.messages import Checks
from daemon.labels import VariantOutcome
from daemon.text.refusal import refusal
from daemon.text.words import normalised, stems, words

MIN_SHARED = 0.75
MIN_WORDS = 2
MIN_LENGTH_SHARE = 0.4
MAX_LENGTH_FACTOR = 2.0
EXTRA_WORDS = 6
"""A wording has 0.4 to 2 times the question's words; a short one may have a few more ("Could you please ...")."""

_LIST_MARK = regex.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):])\s+")
_NUMBER = regex.compile(r"\p{N}+(?:[.,:/\-]\p{N}+)*")
_WORD = regex.compile(r"[\p{L}\p{M}][\p{L}\p{M}\p{N}]*")
_SENTENCE_START = regex.compile(r"(?:^|[.!?:\n\"“”'])\s*$")
_QUOTED = regex.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|「([^」]+)」|`([^`]+)`")
_NEGATION = regex.compile(r"\b(?:no|not|never|none|nothing|without|cannot)\b|n't\b")
_I = regex.compile(r"\bi\b")
_TALK = regex.compile(r":$|^(?:here (?:is|are)|sure|certainly|of course|okay)\b")


def wordings(text: str, *, truncated: bool) -> list[str]:
    """The lines of a reply without list marks, each once; of a reply cut at the token limit, all but the last."""
    lines = text.splitlines()
    lines = lines[:-1] if truncated else lines
    plain = (_unquoted(_LIST_MARK.sub("", line).strip()) for line in lines)
    return list(dict.fromkeys(line for line in plain if line))


def _unquoted(line: str) -> str:
    whole = _QUOTED.fullmatch(line)
    return line if whole is None else next(part for part in whole.groups() if part).strip()


def wording_fault(wording: str, question: str, *, correction: str, checks: Checks | None) -> VariantOutcome | None:
    """The first reason why the correction must not be trained after the wording; None when it may."""
    return next(_faults(wording, question, correction, checks), None)


def _faults(wording: str, question: str, correction: str, checks: Checks | None) -> Iterator[VariantOutcome]:
    count, asked = len(words(wording)), len(words(question))
    if not max(MIN_WORDS, MIN_LENGTH_SHARE * asked) <= count <= MAX_LENGTH_FACTOR * asked + EXTRA_WORDS:
        yield VariantOutcome.LENGTH
    if refusal(wording) or _TALK.search(normalised(wording)) or _answers(wording, question):
        yield VariantOutcome.REFUSAL
    if _specifics(wording, question) or _quotations(wording) != _quotations(question):
        yield VariantOutcome.SPECIFICS
    of_question, of_wording = stems(question), stems(wording)
    if len(of_question & of_wording) < MIN_SHARED * len(of_question) or _form(wording) != _form(question):
        yield VariantOutcome.MEANING
    of_answer = stems(correction)
    if of_answer & of_wording != of_answer & of_question or _named(checks, wording) != _named(checks, question):
        yield VariantOutcome.ANSWER


def _answers(wording: str, question: str) -> bool:
    """Whether a statement speaks as "I" where the question does not ("I will translate it ...")."""
    plain = normalised(wording)
    return not plain.endswith("?") and _I.search(plain) is not None and _I.search(normalised(question)) is None


def _form(text: str) -> tuple[bool, bool]:
    """Whether it negates, and whether it ends in a question mark."""
    plain = normalised(text)
    return _NEGATION.search(plain) is not None, plain.endswith("?")


def _specifics(wording: str, question: str) -> bool:
    """Whether a name or a number stands in one of the two only."""
    if sorted(_NUMBER.findall(wording)) != sorted(_NUMBER.findall(question)):
        return True
    held, asked = set(words(wording)), set(words(question))
    return not (_names(question) <= held and _names(wording) <= asked)


def _names(text: str) -> set[str]:
    """Words with a capital letter that does not merely begin a sentence, in lower case."""
    found = set()
    for match in _WORD.finditer(text):
        word = match[0]
        begins = _SENTENCE_START.search(text[: match.start()]) is not None
        if len(word) > 1 and (word[1:] != word[1:].lower() or (word[0] != word[0].lower() and not begins)):
            found.update(words(word))
    return found


def _quotations(text: str) -> list[str]:
    parts = (next(part for part in match.groups() if part) for match in _QUOTED.finditer(text))
    return sorted(" ".join(part.split()) for part in parts)


def _named(checks: Checks | None, text: str) -> set[str]:
    """The phrases of the checks that the text holds."""
    phrases = [] if checks is None else [*checks.must_contain, *checks.must_not_contain]
    plain = normalised(text)
    return {phrase for phrase in phrases if normalised(phrase) in plain}
