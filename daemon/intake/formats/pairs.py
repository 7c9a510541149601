"""Preference data: rows that rank two or more answers to one request. A ranking says nothing about harm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from daemon.intake.formats.cells import LeftOutError, Row, RowError, cell, column_name, decoded, has, is_empty, text
from daemon.intake.formats.conversations import (
    Messages,
    answer_of,
    is_transcript,
    messages_of,
    opened,
    question_of,
    split_answer,
    with_context,
)

PREFERRED = "Annotators preferred another answer to the same request."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The better and the worse answer of a row, as the file writes them, and the columns that hold them."""

    better: Any
    worse: Any
    names: tuple[str, str] = ("chosen", "rejected")
    question: Any = None
    """The request, where it is not in a column of its own."""
    reason: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """The rejected answer of a row, and the preferred one if it answers the same messages."""

    messages: Messages
    response: str
    correction: str | None
    reason: str | None
    model: str | None


def preference_of(ranked: Ranked, row: Row) -> Preference:
    """What the ranking says about the worse answer.

    Raises:
        RowError: when one of the two answers cannot be read.
        LeftOutError: when both are the same.
    """
    better, preferred = _side(ranked, row, ranked.better, ranked.names[0])
    messages, response = _side(ranked, row, ranked.worse, ranked.names[1])
    if (better, preferred.strip()) == (messages, response.strip()):
        raise LeftOutError("both answers are the same")
    return Preference(
        messages=messages,
        response=response,
        correction=preferred if better == messages and preferred.strip() else None,
        reason=ranked.reason,
        model=ranked.model,
    )


def _side(ranked: Ranked, row: Row, value: Any, name: str) -> tuple[Messages, str]:
    """The messages before one of the answers, and the answer."""
    value = opened(value)
    if is_empty(value) or value == []:
        raise RowError(name, "is missing or not a text")
    if is_transcript(value) or (isinstance(value, list) and all(isinstance(item, Mapping) for item in value)):
        messages = messages_of(value, name)
        if any(message["role"] == "user" for message in messages):
            before, answer = split_answer(messages)
            return with_context(row, before) if before else before, answer_of(answer, name)
    question = question_of(row) if ranked.question is None else messages_of(ranked.question, "input")
    return question, answer_of(value, name)


def chosen_and_rejected(row: Row) -> Ranked | None:
    better, worse = cell(row, "chosen"), cell(row, "rejected")
    if better is None and worse is None:
        return None
    for names in (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")):
        if has(row, names) and not is_empty(row[names[0]]) and row[names[0]] == row[names[1]]:
            raise LeftOutError("both answers have the same score")
    return Ranked(better=better, worse=worse)


def preferred_output(row: Row) -> Ranked | None:
    """OpenAI's preference rows."""
    names = ("preferred_output", "non_preferred_output")
    if not has(row, names):
        return None
    return Ranked(better=row[names[0]], worse=row[names[1]], names=names, question=row.get("input"))


def two_in_response(row: Row) -> Ranked | None:
    """`response` is the better and the worse text. In a table it is a JSON array, if no column judges the row."""
    response = cell(row, "response")
    if isinstance(response, str):
        answers = decoded(response)
        is_pair = isinstance(answers, list) and len(answers) == 2 and all(isinstance(one, str) for one in answers)
        if not is_pair or any(cell(row, column) is not None for column in ("is_safe", "is_good", "is_bad", "reason")):
            return None
    else:
        answers = response
    if not isinstance(answers, list) or (answers and isinstance(answers[0], Mapping)):
        return None
    if len(answers) != 2:
        raise RowError("response", f"must hold two texts, the better one first; it holds {len(answers)}")
    better, worse = (text(answer, f"response.{index}") for index, answer in enumerate(answers))
    return Ranked(better=better, worse=worse, names=("response.0", "response.1"))


def better_response_id(row: Row) -> Ranked | None:
    """PKU-SafeRLHF without labels of safety: the number of the better response."""
    return _numbered(row, ("response_0", "response_1"), "better_response_id", {"0": 0, "1": 1})


def alpaca_farm(row: Row) -> Ranked | None:
    return _numbered(row, ("output_1", "output_2"), "preference", {"1": 0, "2": 1})


def arena(row: Row) -> Ranked | None:
    """Votes of the chatbot arena: two conversations or responses, and the winner."""
    for names in (("conversation_a", "conversation_b"), ("response_a", "response_b")):
        if has(row, names) and "winner" in row:
            winners = {"model_a": 0, "a": 0, "model_b": 1, "b": 1}
            ranked = _numbered(row, names, "winner", winners)
            loser = row.get("model_b" if ranked and ranked.names[0] == names[0] else "model_a")
            return ranked and Ranked(
                better=ranked.better, worse=ranked.worse, names=ranked.names, model=loser and str(loser)
            )
    return None


def _numbered(row: Row, names: tuple[str, str], column: str, numbers: Mapping[str, int]) -> Ranked | None:
    if not has(row, (*names, column)):
        return None
    word = column_name("" if is_empty(row[column]) else row[column]).removesuffix(".0")
    if word.startswith(("tie", "both")):
        raise LeftOutError("no answer was preferred")
    if word not in numbers:
        if not word:
            raise LeftOutError(f"{column} is empty")
        raise RowError(column, f"must be one of {', '.join(numbers)}, not {row[column]!r:.40}")
    best = numbers[word]
    return Ranked(better=row[names[best]], worse=row[names[1 - best]], names=(names[best], names[1 - best]))


def completions(row: Row) -> Ranked | None:
    """UltraFeedback before it was made into pairs: several completions, each with a score and a critique."""
    found = decoded(row.get("completions"))
    if not isinstance(found, list):
        return None
    scored = [(score, item) for item in found if isinstance(item, Mapping) and (score := _score(item)) is not None]
    if len(scored) < 2:
        raise LeftOutError("fewer than two completions have a score")
    best, worst = max(scored, key=lambda pair: pair[0]), min(scored, key=lambda pair: pair[0])
    if best[0] == worst[0]:
        raise LeftOutError("both answers have the same score")
    critique, model = worst[1].get("critique"), worst[1].get("model")
    return Ranked(
        better=best[1].get("response"),
        worse=worst[1].get("response"),
        names=("completions.response", "completions.response"),
        reason=critique if isinstance(critique, str) else None,
        model=model if isinstance(model, str) else None,
    )


def rated_lists(row: Row) -> Ranked | None:
    """A list of answers beside a list of their ratings (distilabel)."""
    for names in product(("generations", "responses"), ("ratings", "rating")):
        answers, ratings = decoded(row.get(names[0])), decoded(row.get(names[1]))
        if isinstance(answers, list) and isinstance(ratings, list) and len(answers) == len(ratings):
            items = [{"response": one, "overall_score": score} for one, score in zip(answers, ratings, strict=True)]
            return completions({"completions": items})
    return None


def _score(item: Mapping[str, Any]) -> float | None:
    for name in ("overall_score", "score", "rating", "fine-grained_score"):
        try:
            return float(item[name])
        except (KeyError, TypeError, ValueError):
            continue
    return None


RANKINGS: Mapping[str, Callable[[Row], Ranked | None]] = {
    "preference pairs (chosen, rejected)": chosen_and_rejected,
    "preference rows of OpenAI": preferred_output,
    "pairs in `response` (the better one first)": two_in_response,
    "pairs with the number of the better answer": better_response_id,
    "pairs of AlpacaFarm": alpaca_farm,
    "votes of the chatbot arena": arena,
    "scored completions (UltraFeedback)": completions,
    "rated answers": rated_lists,
}
