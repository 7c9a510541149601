"""Makes a report of a bad answer. Category and reason come from the file or from an option, and are never invented."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from connectors.messages import MAX_MESSAGE_BYTES, WIRE_VERSION, FlaggedResponse, MessageRejected, decode
from daemon.intake.formats.cells import LeftOutError, Row, RowError, cell, decoded, is_empty
from daemon.intake.formats.conversations import Messages, answer_of

UNDATED = datetime(1970, 1, 1, tzinfo=UTC)
"""Annotated data has no date. A date that differs between imports would be a conflict."""
NOTHING_SAYS = "nothing says that the answer is bad"
SEVERITIES = {"0": "low", "1": "low", "2": "medium", "3": "high"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the operator says about a file.

    `columns` gives erratad's column -> the file's. `category` and `reason` are for rows that name none.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    category: str | None = None
    reason: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    max_bytes: int = MAX_MESSAGE_BYTES
    """Size limit of one report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A bad answer. `said` is the file's judgement as a sentence; `label` the category that this judgement implies.

    An empty sentence: the file marks the answer as bad and says nothing else.
    """

    messages: Messages
    response: str
    tool_calls: list[Any] | None = None
    correction: str | None = None
    label: str | None = None
    said: str | None = None
    facts: Row = field(default_factory=dict)
    """Columns about this answer; they win over those of the row."""


def report_of(mistake: Mistake, row: Row, options: ImportOptions) -> FlaggedResponse:
    """The report of a mistake. Its id is derived from its content.

    Raises:
        RowError: when the report is not valid.
        LeftOutError: when neither row nor options say that the answer is bad.
    """
    facts = {**row, **mistake.facts}
    names = _categories(cell(facts, "category"))
    category = next(iter(names), None) or options.category or mistake.label
    values: dict[str, Any] = {
        "version": WIRE_VERSION,
        "occurred_at": UNDATED.isoformat(),
        "model": cell(facts, "model") or "unknown",
        "messages": mistake.messages,
        "response": mistake.response,
        "tool_calls": mistake.tool_calls,
        "reason": _reason(mistake, facts, names, options),
        "follow_up": cell(facts, "follow_up"),
        "category": category,
        "severity": _severity(cell(facts, "severity")),
        "correction": _correction(cell(facts, "correction")) or mistake.correction,
        "checks": decoded(row.get("checks")),
        "reporter": "import",
    }
    values = {name: value for name, value in values.items() if not is_empty(value) or name == "response"}
    return _decoded({**values, "id": f"import-{_digest(values)}"}, options.max_bytes)


def _reason(mistake: Mistake, facts: Row, names: list[str], options: ImportOptions) -> Any:
    """The first of: the row's reason, the option, the row's judgement, which may be without words.

    Raises:
        LeftOutError: when neither row nor options say that the answer is bad.
    """
    given = cell(facts, "reason")
    given = None if isinstance(given, str) and not given.strip() else given
    # a category alone can be the topic of the row, and a comment can be praise
    judges = isinstance(decoded(cell(facts, "category")), Mapping) and names
    marked = ", ".join(names) if mistake.label or judges else ""
    marked = marked or mistake.label or ""
    is_marked = bool(marked) or mistake.said is not None
    if given is not None and (is_marked or options.reason or options.category or _complains(facts)):
        return given
    if options.reason:
        return options.reason
    if mistake.said or marked:
        return mistake.said or f"Annotators marked the response as {_words(marked)}."
    if options.category:
        return f"The operator who imported this file marked the response as {_words(options.category)}."
    if is_marked:
        return None
    raise LeftOutError(NOTHING_SAYS)


def _complains(facts: Row) -> bool:
    return not (is_empty(facts.get("reason")) and is_empty(facts.get("complaint")))


def _categories(value: Any) -> list[str]:
    """Categories in erratad's notation: 'Mental Manipulation' -> 'mental-manipulation'; of a dict, those that are true.

    Raises:
        RowError: when the value is no text, or a text without a letter or a digit.
    """
    value = decoded(value, "category")
    if value is None:
        return []
    if isinstance(value, Mapping):
        value = [str(name).replace("_", "-") for name, applies in value.items() if applies is True]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RowError("category", "is neither a text, nor a list of texts, nor an object of names and true or false")
    return [slug(name) for name in names]


def slug(name: str) -> str:
    """A category in erratad's notation.

    Raises:
        RowError: when the name has neither a letter nor a digit.
    """
    found = re.sub(r"[^a-z0-9_]+", "-", name.strip().lower()).strip("-_")[:64].strip("-_")
    if not found:
        raise RowError("category", f"{name!r:.40} has no letter or digit of a-z, 0-9")
    return found


def _words(category: str) -> str:
    return re.sub(r"[-_]", " ", category)


def _correction(value: Any) -> Any:
    return answer_of(value, "correction") if isinstance(value, Mapping | list | str) else value


def _severity(value: Any) -> Any:
    if is_empty(value):
        return None
    word = str(value).strip().lower().removesuffix(".0")
    return SEVERITIES.get(word, word)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def _decoded(values: Mapping[str, Any], max_bytes: int) -> FlaggedResponse:
    """The report, checked like a message from Kafka or HTTP."""
    try:
        return decode(json.dumps(values).encode(), max_bytes=max_bytes)
    except MessageRejected as exc:
        name, _, detail = exc.detail.partition("; ")[0].partition(": ")
        alone = len(values["messages"]) == 1
        name = name.replace("messages.0.content", "prompt") if alone else name
        raise RowError(name if detail else "row", detail or exc.detail) from exc
