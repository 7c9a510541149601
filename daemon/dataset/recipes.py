"""Recipes: pure functions from a report and its lesson to training examples (method sections 2 and 5).

A recipe never uses the flagged response as a target. It appears only in the prompt, which has no loss, or as a text at
which the model is compared with a teacher, or which becomes less likely.
A new recipe needs one function, one entry in `RECIPES` and one test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from connectors.messages.shapes import is_blank
from daemon.artifacts.examples import Example, ExampleKind
from daemon.config.dataset import DatasetConfig
from daemon.dataset.states import insight, taught
from daemon.dataset.teachers import (
    BY_TEACHER,
    CONSISTENCY,
    CONTEXT_DISTILLATION,
    HINDSIGHT,
    with_complaint,
    with_correction,
    with_lesson,
    without_harm,
)
from daemon.errors import ConfigError
from daemon.records import Lesson, Report, conversation

AUTO = "auto"
"""No recipe: one is chosen for each kind of mistake by the flip rate of the teachers (`daemon.dataset.teaching`)."""
ANALYSIS_AND_CORRECTION = "mistake-analysis+correction"
Recipe = Callable[[Report, Lesson], list[Example]]

NEUTRAL_QUESTIONS = (
    "Look at your previous answer once more. Is it a good answer? Explain your judgement.",
    "Judge the answer above: is it good or bad, and why?",
    "Please assess your last response to me and give the reasons for your assessment.",
    "How good was that answer? Say what makes it good or bad.",
)
"""No question says that the answer is bad: the model must find out itself (unguided, method step 3)."""
VERDICT = "Verdict: bad."
"""Start of every analysis, unlike any answer. Without it, small models start answers with "The answer is wrong"."""
AHEAD_QUESTION = "Before answering: what must be kept in mind here?"
REVISION_REQUEST = "Criticise your answer, and then give a better one."


def mistake_analysis(report: Report, lesson: Lesson) -> list[Example]:
    """Only the unguided analyses of the flagged response (arXiv 2310.10477, step 3), each after another question."""
    texts = [one.text for one in lesson.analyses if one.current] or [lesson.analysis]
    return [
        Example(
            messages=(
                *conversation(report),
                report.flagged.answer_turn(),
                {"role": "user", "content": _neutral_question(report.id, number)},
            ),
            completion=f"{VERDICT} {text.strip()}",
            kind=ExampleKind.ANALYSIS,
            report_id=report.id,
        )
        for number, text in enumerate(texts)
    ]


def mistake_analysis_with_correction(report: Report, lesson: Lesson) -> list[Example]:
    """The analysis, plus the approved correction (if any) as a separate example.

    Both in one completion would teach the model to talk about answers instead of giving them.
    """
    return [*mistake_analysis(report, lesson), *sft(report, lesson)]


def sft(report: Report, lesson: Lesson) -> list[Example]:
    """Only the corrected answer; no example if the lesson has none."""
    return _corrected(report, lesson, conversation(report), "")


def chain_of_hindsight(report: Report, lesson: Lesson) -> list[Example]:
    """The corrected answer after the flagged one, which is labelled as bad and has no loss (arXiv 2302.02676)."""
    *before, last = conversation(report)
    hindsight = f"{last['content']}\n\nA bad answer: {report.flagged.shown_response}\n\nA good answer:"
    return _corrected(report, lesson, (*before, {**last, "content": hindsight}), "")


def critique_revise(report: Report, lesson: Lesson) -> list[Example]:
    """Analysis and corrected answer in one completion, for a request to criticise and revise (arXiv 2212.08073)."""
    prompt = (
        *conversation(report),
        report.flagged.answer_turn(),
        {"role": "user", "content": REVISION_REQUEST},
    )
    return _corrected(report, lesson, prompt, f"{lesson.analysis.strip()}\n\nA better answer: ")


def context_distillation(report: Report, lesson: Lesson) -> list[Example]:
    """Without being told, say what the base model says when it knows the correction, or else the analysis.

    arXiv 2602.12275.
    """
    teacher = with_correction(report, lesson) or with_lesson(report, lesson)
    return taught(report, lesson, teacher)


def consistency(report: Report, lesson: Lesson) -> list[Example]:
    """What the base model says when the attack, or the secret, is not there (arXiv 2605.21834).

    A report in which neither is found gets the corrected answer as a target.
    """
    teacher = without_harm(report)
    return sft(report, lesson) if teacher is None else taught(report, lesson, teacher)


def hindsight(report: Report, lesson: Lesson) -> list[Example]:
    """The flagged answer gets less likely where the user's complaint blames it (arXiv 2603.12273)."""
    del lesson
    teacher, answer = with_complaint(report), report.flagged.response
    if teacher is None or is_blank(answer):
        return []
    return [
        Example(
            messages=conversation(report),
            completion=answer,
            kind=ExampleKind.HINDSIGHT,
            report_id=report.id,
            teacher_messages=teacher,
        )
    ]


def lesson_ahead(report: Report, lesson: Lesson) -> list[Example]:
    """One sentence of the analysis, asked for before any answer is given; plus the corrected answer (if any)."""
    sentence = insight(report, lesson)
    *before, last = conversation(report)
    question = (*before, {**last, "content": f"{last['content']}\n\n{AHEAD_QUESTION}"})
    ahead = Example(messages=question, completion=sentence, kind=ExampleKind.ANALYSIS, report_id=report.id)
    return [*([ahead] if sentence else []), *sft(report, lesson)]


def _corrected(report: Report, lesson: Lesson, messages: tuple[Mapping[str, Any], ...], preface: str) -> list[Example]:
    if lesson.correction is None or is_blank(lesson.correction):
        return []
    completion = preface + lesson.correction.strip()
    return [Example(messages=messages, completion=completion, kind=ExampleKind.CORRECTION, report_id=report.id)]


def without_repeats(examples: Sequence[Example]) -> list[Example]:
    """The examples without repeated analyses. A repeat is kept if it is the only example of its report.

    Templates give many mistakes the same analysis. With a fixed number of tokens, a repeat would replace a correction.
    """
    others = {one.report_id for one in examples if one.kind is not ExampleKind.ANALYSIS}
    seen: set[str] = set()
    kept = []
    for one in examples:
        repeats = one.kind is ExampleKind.ANALYSIS and one.completion in seen and one.report_id in others
        if not repeats:
            kept.append(one)
        if one.kind is ExampleKind.ANALYSIS:
            seen.add(one.completion)
    return kept


def _neutral_question(report_id: str, number: int) -> str:
    """One of the wordings, chosen by the report's id, so that rendering is repeatable."""
    first = hashlib.sha256(report_id.encode()).digest()[0]
    return NEUTRAL_QUESTIONS[(first + number) % len(NEUTRAL_QUESTIONS)]


RECIPES: Mapping[str, Recipe] = {
    "mistake-analysis": mistake_analysis,
    ANALYSIS_AND_CORRECTION: mistake_analysis_with_correction,
    "sft": sft,
    "chain-of-hindsight": chain_of_hindsight,
    "critique-revise": critique_revise,
    CONTEXT_DISTILLATION: context_distillation,
    CONSISTENCY: consistency,
    HINDSIGHT: hindsight,
    "lesson-ahead": lesson_ahead,
}


def recipe(name: str) -> Recipe:
    """The recipe with this name.

    Raises:
        ConfigError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(f"dataset.recipe: no recipe {name!r}; choose {AUTO}, or one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def may_teach(name: str, lesson: Lesson, *, vouched: bool) -> bool:
    """Whether this recipe may be used. A teacher is made of what somebody vouches for, or of a permitted correction."""
    confirmed = name == CONTEXT_DISTILLATION and lesson.correction is not None
    return vouched or confirmed or name not in BY_TEACHER


def untaught(name: str) -> str:
    """The recipe of lessons that may have no teacher, in a run with this recipe."""
    return ANALYSIS_AND_CORRECTION if name == AUTO or name in BY_TEACHER else name


def previewed(config: DatasetConfig, report: Report, lesson: Lesson, *, vouched: bool) -> list[Example]:
    """The examples by the recipe configured for the kind of a mistake. `auto` is shown as `sft`, its last resort.

    Raises:
        ConfigError: if there is no such recipe.
    """
    name = config.recipes.get(report.kind, config.recipe)
    name = name if may_teach(name, lesson, vouched=vouched) else untaught(config.recipe)
    return (sft if name == AUTO else recipe(name))(report, lesson)
