"""Prompts of a teacher, made of what a report holds. Pure functions; None: the report has nothing for such a prompt.

The teacher is the frozen base model. A small model cannot ignore what it sees, so a harmful text is taken away, not
argued against. Only exact substrings of the conversation are taken: a report cannot put words into a prompt that way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from connectors.guidance import with_guidance
from daemon.categories import Kind
from daemon.records import Lesson, Report, conversation

Messages = tuple[Mapping[str, Any], ...]

CONSISTENCY, CONTEXT_DISTILLATION = TAUGHT = ("consistency", "context-distillation")
"""The recipes whose teachers are tested before they are used."""
HINDSIGHT = "hindsight"
BY_TEACHER = frozenset({*TAUGHT, HINDSIGHT})
"""The recipes that make a teacher of what a report says."""
NO_TEXT = "(no text was given)"
"""Stands for an attacking text. A slot that is left empty makes small models babble."""
UNKNOWN = "(unknown)"
DECLINED = "I'm sorry, but I can't share that."
DECLINE = f"You do not know what is marked as (unknown). If somebody asks for it, answer: {DECLINED}"
KEEP_IN_MIND = "Keep in mind: "
FEEDBACK = "Feedback on an earlier answer to this: "
SPAN_KEY = "untrusted_span"
"""Key of a report's metadata: the text, or texts, of the conversation that came from an untrusted source."""
_INSTRUCTING = ("system", "developer")
_BORDER = re.compile(r"[.!?]+[\"')\]]*\s+|\n+")


class Teacher(NamedTuple):
    """One way to make the frozen base model answer well."""

    name: str
    prompt: Messages


def teachers(recipe: str, report: Report, lesson: Lesson, *, guidance: str) -> list[Teacher]:
    """The teachers of this recipe that have a prompt for the lesson, the cheapest (shortest) prompt first."""
    guided = tuple(with_guidance(with_lesson(report, lesson), guidance)) if guidance else with_lesson(report, lesson)
    prompts: Mapping[str, Mapping[str, Messages | None]] = {
        CONSISTENCY: {"without-harm": without_harm(report), "declined-before": declined_before(report)},
        CONTEXT_DISTILLATION: {"lesson": guided, "earlier-turn": with_correction(report, lesson)},
    }
    found = [Teacher(name, prompt) for name, prompt in prompts[recipe].items() if prompt is not None]
    return sorted(found, key=lambda one: sum(len(str(turn["content"])) for turn in one.prompt))


def without_harm(report: Report) -> Messages | None:
    """The conversation without the attacking text, or without the secret, by the kind of the mistake."""
    kind = report.kind
    if kind is Kind.PROMPT_INJECTION:
        return without_attack(report)
    return without_secret(report) if kind is Kind.SECRET_LEAK else None


def without_attack(report: Report) -> Messages | None:
    """The attack is the span that the backend named, else the sentences with a text that a good answer does not hold.

    Instructions of the operator (system messages) stay, whatever a report says of them.
    """
    spans = _named_spans(report)
    if spans and (found := _changed(report, lambda text: _replace(text, spans), instructing=False)):
        return found
    return _changed(report, lambda text: _without_sentences(text, _said(report)), instructing=False)


def without_secret(report: Report) -> Messages | None:
    """In system messages, each text that the answer gave away is unknown, and the model declines to give it."""

    def hidden(text: str) -> str:
        kept = text
        for secret in _said(report):
            kept = re.sub(re.escape(secret), UNKNOWN, kept, flags=re.IGNORECASE)
        return text if kept == text else f"{kept.rstrip()} {DECLINE}"

    return _changed(report, hidden, instructing=True)


def declined_before(report: Report) -> Messages | None:
    """Without the secret, and a refusal as an earlier turn: small models rather repeat "(unknown)" than decline."""
    asked = without_secret(report) if report.kind is Kind.SECRET_LEAK else None
    if asked is None or asked[-1]["role"] != "user":
        return None
    return (*asked, {"role": "assistant", "content": DECLINED}, asked[-1])


def with_correction(report: Report, lesson: Lesson) -> Messages | None:
    """The corrected answer as an earlier turn: the question, the answer, the same question again."""
    asked = conversation(report)
    if lesson.correction is None or not lesson.correction.strip() or asked[-1]["role"] != "user":
        return None
    return (*asked, {"role": "assistant", "content": lesson.correction.strip()}, asked[-1])


def with_lesson(report: Report, lesson: Lesson) -> Messages:
    """The analysis in the system message."""
    first, *others = conversation(report)
    note = f"{KEEP_IN_MIND}{lesson.analysis.strip()}"
    if first["role"] in _INSTRUCTING:
        return ({**first, "content": f"{first['content'].rstrip()}\n{note}"}, *others)
    return ({"role": "system", "content": note}, first, *others)


def with_complaint(report: Report) -> Messages | None:
    """The user's next message, else the reason, after the question. The flagged answer is not in this prompt."""
    *before, last = conversation(report)
    said = (report.flagged.follow_up or report.flagged.reason).strip()
    if not said or last["role"] != "user":
        return None
    return (*before, {**last, "content": f"{last['content']}\n\n{FEEDBACK}{said}"})


def _named_spans(report: Report) -> list[str]:
    named = report.flagged.metadata.get(SPAN_KEY)
    texts = named if isinstance(named, list) else [named]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _said(report: Report) -> list[str]:
    """Texts that a good answer does not hold and the flagged one does, longest first."""
    answer, checks = report.flagged.shown_response.casefold(), report.flagged.checks
    texts = [] if checks is None else [text.strip() for text in checks.must_not_contain]
    return sorted((text for text in texts if text and text.casefold() in answer), key=len, reverse=True)


def _changed(report: Report, change: Callable[[str], str], *, instructing: bool) -> Messages | None:
    """The conversation with changed contents: of system messages, or of all others but the assistant's."""
    asked = conversation(report)
    roles = _INSTRUCTING if instructing else {turn["role"] for turn in asked} - {*_INSTRUCTING, "assistant"}
    changed = tuple({**turn, "content": change(turn["content"])} if turn["role"] in roles else turn for turn in asked)
    return None if changed == asked else changed


def _replace(text: str, spans: Sequence[str]) -> str:
    for span in spans:
        text = text.replace(span, NO_TEXT)
    return text


def _without_sentences(text: str, said: Sequence[str]) -> str:
    """Each sentence with one of the texts is replaced."""
    if not said:
        return text
    borders = [0, *(found.end() for found in _BORDER.finditer(text)), len(text)]
    pattern = re.compile("|".join(map(re.escape, said)), flags=re.IGNORECASE)
    kept, at = "", 0
    for found in pattern.finditer(text):
        if found.start() < at:
            continue  # in a sentence that is gone
        start = max(border for border in borders if border <= found.start())
        end = min(border for border in borders if border >= found.end())
        sentence = text[start:end]
        kept += text[at:start] + NO_TEXT + sentence[len(sentence.rstrip()) :]
        at = end
    return kept + text[at:]
