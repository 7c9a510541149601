"""Texts at which the model is compared with its teacher, and the sentence of a lesson."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from daemon.artifacts.examples import Example, ExampleKind
from daemon.categories import Kind
from daemon.records import Lesson, Report, conversation

HEAD_TOKENS = 32
"""Of a flagged answer: its start is a state, at which the teacher says how it would go on."""
_HEAD_CHARACTERS = 400
"""More than HEAD_TOKENS tokens have in most languages; a long answer would otherwise be left out as too long."""
MAX_INSIGHT_WORDS = 25
_QUOTED_WORDS = 5
"""So many words in a row, as in the conversation or the flagged answer, are a quote."""
_DECIDED_EARLY = frozenset({Kind.PROMPT_INJECTION, Kind.SECRET_LEAK, Kind.HARMFUL, Kind.REFUSAL})
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")


class State(NamedTuple):
    """An answer, or its start. `logprobs`: of its tokens (nats) when it was sampled.

    `messages`: the prompt that it answers; None: the conversation of the report.
    """

    text: str
    ends: bool = True
    logprobs: tuple[float, ...] | None = None
    messages: tuple[Mapping[str, Any], ...] | None = None


def taught(
    report: Report, lesson: Lesson, teacher: tuple[Mapping[str, Any], ...], drawn: Sequence[State] = ()
) -> list[Example]:
    """An example for each state: the drawn answers, or else the correction; and the start of the flagged answer."""
    correction = (lesson.correction or "").strip()
    states = [*(drawn or ([State(correction)] if correction else ()))]
    if head := report.flagged.response.strip()[:_HEAD_CHARACTERS]:
        states.append(State(head, ends=False))
    return [
        Example(
            messages=state.messages or conversation(report),
            completion=state.text,
            kind=ExampleKind.TAUGHT,
            report_id=report.id,
            ends=state.ends,
            teacher_messages=teacher,
            early=report.kind in _DECIDED_EARLY,
            first_tokens=HEAD_TOKENS if state.text == head and not state.ends else None,
            sampled_logprobs=state.logprobs,
        )
        for state in states
    ]


def insight(report: Report, lesson: Lesson) -> str:
    """The first short sentence of the analysis that quotes nothing of the case; "" if there is none."""
    case = _words(" ".join([*(message.text for message in report.messages), report.flagged.shown_response]))
    quotes = set(_runs(case))
    for sentence in _SENTENCE.split(lesson.analysis.strip()):
        words = _words(sentence)
        if words and len(sentence.split()) <= MAX_INSIGHT_WORDS and not quotes.intersection(_runs(words)):
            return sentence.strip()
    return ""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + _QUOTED_WORDS]) for at in range(len(words) - _QUOTED_WORDS + 1)]
