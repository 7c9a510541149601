"""Finds the bad answers of a row, which can have any of the known shapes.

A row that does not say that its answer is bad gives a report only where an option says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from connectors.messages import FlaggedResponse
from daemon.intake.formats.cells import (
    COLUMNS,
    LeftOutError,
    Row,
    RowError,
    cell,
    decoded,
    has,
    is_bad,
    is_empty,
    named,
    text,
)
from daemon.intake.formats.conversations import (
    answer_of,
    calls_of,
    messages_of,
    question_of,
    split_answer,
    with_context,
)
from daemon.intake.formats.exports import flattened
from daemon.intake.formats.pairs import PREFERRED, RANKINGS, preference_of
from daemon.intake.formats.reports import ImportOptions, Mistake, report_of

LABELS: Mapping[str, tuple[bool, str | None]] = {
    "is_safe": (True, "harmful"),
    "is_good": (True, None),
    "is_bad": (False, None),
    "toxic": (False, "toxic"),
    "harmful": (False, "harmful"),
    "hallucination": (False, "hallucination"),
}
"""Columns that judge an answer: whether true means good, and the category of a bad answer, if the label names one."""
_COMMENTS = frozenset({"feedback", "user_feedback"})
"""Columns that hold a label in some files and a comment in others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The reports of one row, and the shape that was recognised."""

    shape: str
    reports: tuple[FlaggedResponse, ...]


class UnknownShapeError(RowError):
    """No known shape has these columns."""


def read_row(row: Row, options: ImportOptions | None = None) -> Reading:
    """Recognise the shape of a row and make its bad answers reports.

    Raises:
        RowError: names the missing or wrong field.
        LeftOutError: when the row holds no bad answer.
    """
    options = options or ImportOptions()
    export, plain = flattened(row)
    values = named(plain, options.columns)
    for shape, read in _SHAPES.items():
        mistakes = read(values)
        if mistakes is not None:
            name = f"{shape or _single_name(values)}{f' in an export of {export}' if export else ''}"
            return Reading(shape=name, reports=tuple(report_of(one, values, options) for one in mistakes))
    raise UnknownShapeError("row", "has no columns that erratad knows")


def flagged_in(row: Row, options: ImportOptions | None = None) -> Iterator[FlaggedResponse]:
    """The bad answers of one row; none for a row that is left out.

    Raises:
        RowError: names the missing or wrong field.
    """
    try:
        yield from read_row(row, options).reports
    except LeftOutError:
        return


def _judged_pair(row: Row) -> list[Mistake] | None:
    """PKU-SafeRLHF: two responses, each labelled; the safe one corrects the other."""
    if not has(row, ("response_0", "response_1", "is_response_0_safe", "is_response_1_safe")):
        return None
    texts = [text(row.get(f"response_{i}"), f"response_{i}") for i in (0, 1)]
    bad = [is_bad(row[f"is_response_{i}_safe"], f"is_response_{i}_safe", positive=True) for i in (0, 1)]
    if True not in bad:
        empty = [f"is_response_{i}_safe is empty" for i in (0, 1) if bad[i] is None]
        raise LeftOutError(" and ".join(empty) or "both responses are marked as safe")
    mistakes = []
    for i, other in ((0, 1), (1, 0)):
        if bad[i]:
            names = {"category": "harm_category", "severity": "severity_level", "model": "source"}
            own = {name: row.get(f"response_{i}_{column}") for name, column in names.items()}
            facts = {name: row[name] if not is_empty(row.get(name)) else value for name, value in own.items()}
            correction = texts[other] if bad[other] is False else None
            mistakes.append(
                Mistake(
                    messages=question_of(row),
                    response=texts[i],
                    correction=correction,
                    label="harmful",
                    facts={name: value for name, value in facts.items() if not is_empty(value)},
                )
            )
    return mistakes


def _ranked(shape: str) -> Callable[[Row], list[Mistake] | None]:
    rank = RANKINGS[shape]

    def read(row: Row) -> list[Mistake] | None:
        ranked = rank(row)
        if ranked is None:
            return None
        found = preference_of(ranked, row)
        own = {"reason": found.reason, "model": found.model}
        return [
            Mistake(
                messages=found.messages,
                response=found.response,
                correction=found.correction,
                said=PREFERRED,
                facts={name: value for name, value in own.items() if value},
            )
        ]

    return read


def _labelled_turns(row: Row) -> list[Mistake] | None:
    """WildChat and its like: every turn says whether it is toxic; each toxic answer is one mistake."""
    turns = decoded(cell(row, "messages"))
    if not isinstance(turns, list) or not any(isinstance(turn, Mapping) and "toxic" in turn for turn in turns):
        return None
    messages = messages_of(turns, "messages")
    mistakes = [
        Mistake(
            messages=with_context(row, messages[:index]),
            response=answer_of(message, f"messages.{index}"),
            label="toxic",
        )
        for index, (turn, message) in enumerate(zip(turns, messages, strict=True))
        if message["role"] == "assistant" and is_bad(turn.get("toxic"), f"messages.{index}.toxic", positive=False)
    ]
    if not mistakes:
        raise LeftOutError("no answer is marked as toxic")
    return mistakes


def _labelled_request(row: Row) -> list[Mistake] | None:
    """ToxicChat: its labels are about the user's message, so they do not flag the answer by themselves."""
    if not has(row, ("user_input", "model_output", "toxicity")):
        return None
    if not any(is_bad(row.get(name), name, positive=False) for name in ("toxicity", "jailbreaking")):
        raise LeftOutError("the request is not marked as toxic or as a jailbreak")
    return [Mistake(messages=question_of(row), response=text(row["model_output"], "model_output"))]


def _single(row: Row) -> list[Mistake] | None:
    """One conversation or prompt and one answer, with a label (BeaverTails) or without (Alpaca, ShareGPT, OpenAI)."""
    conversation = cell(row, "messages")
    answered = any(name in row for column in ("response", *LABELS) for name in COLUMNS[column])
    if conversation is None and not answered:
        return None
    said, label = _judgement(row)
    response = next((row[name] for name in COLUMNS["response"] if row.get(name) is not None), None)
    if response is not None or conversation is None:
        messages = question_of(row)
    else:
        messages, response = split_answer(messages_of(conversation, "messages"))
        if not messages:
            raise RowError("messages", "begins with the answer; a report needs the request")
        messages = with_context(row, messages)
    answer = answer_of(response, "response")
    return [
        Mistake(messages=messages, response=answer, tool_calls=calls_of(response), said=said, label=label),
    ]


def _judgement(row: Row) -> tuple[str | None, str | None]:
    """The sentence and the category of the first label that says that the answer is bad; None without labels.

    A label that names no category is a bare thumbs-down: its sentence is empty.

    Raises:
        LeftOutError: when all labels are empty, or say that the answer is good.
    """
    why = None
    for column, (positive, category) in {**LABELS, **_kto(row)}.items():
        for name in COLUMNS.get(column, (column,)):
            if name not in row:
                continue
            try:
                bad = is_bad(row[name], name, positive=positive)
            except RowError:
                if name not in _COMMENTS:
                    raise
                continue
            if bad:
                return None if category else "", category
            why = f"{name} says that the answer is good" if bad is False else why or f"{name} is empty"
    if why is not None:
        raise LeftOutError(why)
    return None, None


def _kto(row: Row) -> dict[str, tuple[bool, str | None]]:
    """`label` is true for a good answer in the rows of KTO; elsewhere it can mean anything."""
    return {"label": (True, None)} if "label" in row and "completion" in row else {}


def _single_name(row: Row) -> str:
    """What to call the shape that `_single` reads."""
    if cell(row, "response") is None:
        turns = decoded(cell(row, "messages"))
        turn = turns[0] if isinstance(turns, list) and turns else None
        return "conversations of ShareGPT" if isinstance(turn, Mapping) and "from" in turn else "messages of OpenAI"
    if any(cell(row, column) is not None for column in LABELS) or _kto(row):
        is_beavertails = isinstance(decoded(cell(row, "category")), Mapping)
        return "labelled answers (BeaverTails)" if is_beavertails else "labelled answers"
    return "instructions (Alpaca)" if "instruction" in row else "questions and answers"


_SHAPES: Mapping[str, Callable[[Row], list[Mistake] | None]] = {
    "pairs with labels of safety (PKU-SafeRLHF)": _judged_pair,
    **{shape: _ranked(shape) for shape in RANKINGS},
    "conversations with labelled turns": _labelled_turns,
    "labelled requests (ToxicChat)": _labelled_request,
    "": _single,
}
