"""Recipes: pure functions from a report and its lesson to training examples (method sections 2 and 5).

A recipe never makes the flagged response a target: it stands in the prompt, where no loss falls on it, or nowhere.
Adding a recipe is one function, one entry in `RECIPES` and one test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.artifacts.examples import Example, ExampleKind
from daemon.errors import ConfigError
from daemon.records import Lesson, Report, conversation

Recipe = Callable[[Report, Lesson], list[Example]]

NEUTRAL_QUESTIONS = (
    "Look at your previous answer once more. Is it a good answer? Explain your judgement.",
    "Judge the answer above: is it good or bad, and why?",
    "Please assess your last response to me and give the reasons for your assessment.",
    "How good was that answer? Say what makes it good or bad.",
)
"""None presumes a mistake: the model has to find by itself that the answer is bad (unguided, method step 3)."""
VERDICT = "Verdict: bad."
"""Begins every analysis as no answer begins: without it, small models begin answers with "The answer is wrong"."""
REVISION_REQUEST = "Criticise your answer, and then give a better one."


def mistake_analysis(report: Report, lesson: Lesson) -> list[Example]:
    """The unguided analysis of the flagged response and nothing else (arXiv 2310.10477, step 3)."""
    return [
        Example(
            messages=(
                *conversation(report),
                {"role": "assistant", "content": report.flagged.response},
                {"role": "user", "content": _question(report.id)},
            ),
            completion=f"{VERDICT} {lesson.analysis.strip()}",
            kind=ExampleKind.ANALYSIS,
            report_id=report.id,
        )
    ]


def mistake_analysis_with_correction(report: Report, lesson: Lesson) -> list[Example]:
    """The analysis, and the approved corrected answer (where there is one) as an example of its own.

    In one completion the two teach the model to talk about answers instead of giving them.
    """
    return [*mistake_analysis(report, lesson), *sft(report, lesson)]


def sft(report: Report, lesson: Lesson) -> list[Example]:
    """The corrected answer only; nothing where there is none."""
    return _corrected(report, lesson, conversation(report), "")


def chain_of_hindsight(report: Report, lesson: Lesson) -> list[Example]:
    """The corrected answer after the flagged one, which is named as bad (arXiv 2302.02676; no loss on the bad one)."""
    *before, last = conversation(report)
    hindsight = f"{last['content']}\n\nA bad answer: {report.flagged.response}\n\nA good answer:"
    return _corrected(report, lesson, (*before, {**last, "content": hindsight}), "")


def critique_revise(report: Report, lesson: Lesson) -> list[Example]:
    """Analysis and corrected answer in one, when asked to criticise and revise the answer (arXiv 2212.08073)."""
    prompt = (
        *conversation(report),
        {"role": "assistant", "content": report.flagged.response},
        {"role": "user", "content": REVISION_REQUEST},
    )
    return _corrected(report, lesson, prompt, f"{lesson.analysis.strip()}\n\nA better answer: ")


def _corrected(report: Report, lesson: Lesson, messages: tuple[Mapping[str, Any], ...], preface: str) -> list[Example]:
    if lesson.correction is None:
        return []
    completion = preface + lesson.correction.strip()
    return [Example(messages=messages, completion=completion, kind=ExampleKind.CORRECTION, report_id=report.id)]


def without_repeats(examples: Sequence[Example]) -> list[Example]:
    """The examples without analyses in the words of an earlier one, where their report has another example.

    Templates say the same of many mistakes. At a given number of tokens every repeat takes the place of a correction.
    """
    others = {one.report_id for one in examples if one.kind is not ExampleKind.ANALYSIS}
    said: set[str] = set()
    kept = []
    for one in examples:
        repeats = one.kind is ExampleKind.ANALYSIS and one.completion in said and one.report_id in others
        if not repeats:
            kept.append(one)
        if one.kind is ExampleKind.ANALYSIS:
            said.add(one.completion)
    return kept


def _question(report_id: str) -> str:
    """A wording fixed by the report's id, so that a run rendered twice is the same."""
    return NEUTRAL_QUESTIONS[hashlib.sha256(report_id.encode()).digest()[0] % len(NEUTRAL_QUESTIONS)]


RECIPES: Mapping[str, Recipe] = {
    "mistake-analysis": mistake_analysis,
    "mistake-analysis+correction": mistake_analysis_with_correction,
    "sft": sft,
    "chain-of-hindsight": chain_of_hindsight,
    "critique-revise": critique_revise,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: when there is none.
    """
    if name not in RECIPES:
        raise ConfigError(f"dataset.recipe: no recipe {name!r}; choose one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
