"""Reads the cells of a row: names of columns, texts, JSON inside of text, labels that say good or bad."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from daemon.errors import ErratadError

Row = Mapping[str, Any]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query", "instruction", "user_input", "user_message", "request"),
    "response": ("response", "answer", "output", "model_output", "completion", "generation", "assistant_response"),
    "messages": ("messages", "conversation", "conversations"),
    "system": ("system", "system_prompt", "system_message"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "correction": ("correction", "corrected_response", "corrected_answer", "expected_output", "expectedoutput"),
    "reason": ("reason", "comment", "critique", "complaint"),
    "follow_up": ("follow_up", "followup", "next_message", "next_user_message", "user_reply"),
    "category": ("category", "harm_category", "categories"),
    "severity": ("severity", "severity_level"),
    "model": ("model", "model_name"),
    "is_safe": ("is_safe", "safe"),
    "is_good": ("is_good", "is_correct", "thumbs_up", "user_feedback", "feedback", "thumbs", "kto_tag"),
    "is_bad": ("is_bad", "flagged", "thumbs_down"),
    "toxic": ("toxic", "is_toxic"),
    "harmful": ("harmful", "is_harmful", "unsafe", "is_unsafe"),
    "hallucination": ("hallucination", "is_hallucination"),
}
"""erratad's columns, and the names under which files have them; the first name that a row has counts."""
_TRUE = frozenset({"true", "1", "1.0", "yes", "y", "t", "wahr", "vrai"})
_FALSE = frozenset({"false", "0", "0.0", "no", "n", "f", "falsch", "faux"})
_GOOD = frozenset({"good", "up", "thumbs_up", "positive", "like", "safe", "correct", "pass", "desirable"})
_BAD = frozenset({"bad", "down", "thumbs_down", "negative", "dislike", "unsafe", "toxic", "incorrect", "fail", "-1"})
_NULL = frozenset({"", "null", "none", "nan", "na", "n/a"})
MAX_LITERAL = 1_048_576
"""Characters of a cell that is read as JSON."""


class RowError(ErratadError):
    """A row cannot be read because of one field."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.field = name
        self.detail = detail


class LeftOutError(ErratadError):
    """A row can be read, and no report follows from it."""


def column_name(name: object) -> str:
    """The name as erratad compares it: `Is Safe` is `is_safe`."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


def named(row: Row, mapped: Mapping[str, str]) -> dict[str, Any]:
    """The row under comparable names. `mapped` gives erratad's column -> the file's column or path (`output.text`)."""
    values: dict[str, Any] = {}
    for name, value in row.items():
        values.setdefault(column_name(name), value)
    picked = {column: pick(row, values, source) for column, source in mapped.items()}
    return {**values, **picked}


def pick(row: Row, values: Row, source: str) -> Any:
    """The value of a column, of a nested value such as `output.text` or `scores.0.value`, or None."""
    for place, name in ((row, source), (values, column_name(source))):
        if name in place:
            return place[name]
    found: Any = row
    for part in source.split("."):
        found = decoded(found)
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def cell(row: Row, column: str) -> Any:
    """The value of one of erratad's columns under any of its names; None if it is empty."""
    return next((row[name] for name in (column, *COLUMNS[column]) if not is_empty(row.get(name))), None)


def has(row: Row, names: Iterable[str]) -> bool:
    """Whether the row has all these columns, empty or not."""
    return all(name in row for name in names)


def known(name: object) -> bool:
    """Whether any shape has a column with this name."""
    return column_name(name) in _KNOWN


def is_empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text(value: object, name: str) -> str:
    """The value as a text that is not empty.

    Raises:
        RowError: for anything else.
    """
    if not isinstance(value, str) or not value:
        raise RowError(name, "is missing or not a text")
    return value


def decoded(value: Any, name: str = "") -> Any:
    """A list or an object that a table holds as JSON, or as Python writes it; other values unchanged.

    Raises:
        RowError: with a `name`, for a text that begins like a list or an object and is neither.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")) or len(value) > MAX_LITERAL:
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):  # the parser warns of backslashes in a text
                return parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if name:
        raise RowError(name, "is neither JSON nor a text")
    return value


def is_bad(value: object, name: str, *, positive: bool) -> bool | None:
    """Whether a label says that the answer is bad; None for no label. `positive`: true means good.

    Raises:
        RowError: when the value says neither.
    """
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    word = column_name("" if is_empty(value) else value)
    if word in _NULL:
        return None
    if word in _BAD or word in (_FALSE if positive else _TRUE):
        return True
    if word in _GOOD or word in (_TRUE if positive else _FALSE):
        return False
    raise RowError(name, f"must be true or false, not {value!r:.40}")


_KNOWN = frozenset(
    {name for names in COLUMNS.values() for name in names}
    | {"response_0", "response_1", "is_response_0_safe", "better_response_id", "preferred_output", "input"}
    | {"non_preferred_output", "output_1", "output_2", "preference", "completions", "winner", "toxicity", "fields"}
)
