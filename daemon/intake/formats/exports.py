"""Rows inside of other rows: exports of Argilla and Langfuse, and the viewer of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daemon.intake.formats.cells import LeftOutError, Row, column_name, decoded, is_empty

WRAPPERS = ("data", "rows", "records", "items", "examples", "traces")
"""Keys of an object that holds the rows of a file."""
_LANGFUSE = frozenset(
    {"scores", "observations", "latency", "bookmarked"}
    | {"traceid", "sessionid", "userid", "projectid", "expectedoutput", "sourcetraceid"}
    | {"trace_id", "session_id", "user_id", "project_id", "expected_output", "source_trace_id"}
)


def unwrapped(row: Row) -> list[Row]:
    """The rows inside of an object such as `{"data": [...]}` or `{"row": {...}}`; else the row itself."""
    inner = row.get("row")
    if isinstance(inner, Mapping) and len(row) <= 4:
        return [inner]
    for key in WRAPPERS:
        inside = row.get(key)
        if isinstance(inside, list) and inside and all(isinstance(item, Mapping) for item in inside):
            return [found for item in inside for found in unwrapped(item)]
    return [row]


def flattened(row: Row) -> tuple[str | None, Row]:
    """Name of the export that the row is from, and its values as plain columns.

    Raises:
        LeftOutError: when annotators discarded the record.
    """
    fields = decoded(row.get("fields"))
    if isinstance(fields, Mapping):
        return "Argilla", {**_argilla(row), **fields}
    answered = {key.removesuffix(".responses"): key for key in row if key.endswith(".responses")}
    if answered:
        return "Argilla", {**row, **_submitted_columns(row, answered)}
    asks = "input" in row and not {"instruction", "preferred_output"} & set(row)
    if asks and _LANGFUSE & {column_name(key) for key in row}:
        return "Langfuse", _langfuse(row)
    return None, row


def _argilla(row: Row) -> dict[str, Any]:
    """The first submitted response to each question; suggestions of models do not count."""
    metadata = decoded(row.get("metadata"))
    facts: dict[str, Any] = dict(metadata) if isinstance(metadata, Mapping) else {}
    responses = decoded(row.get("responses"))
    given: dict[str, list[tuple[Any, Any]]] = {}
    if isinstance(responses, Mapping):  # Argilla 2: by question
        for question, found in responses.items():
            items = found if isinstance(found, list) else []
            given[question] = [(item.get("status"), item.get("value")) for item in items if isinstance(item, Mapping)]
    for item in responses if isinstance(responses, list) else ():  # Argilla 1: by annotator
        values = item.get("values") if isinstance(item, Mapping) else None
        for question, found in values.items() if isinstance(values, Mapping) else ():
            value = found.get("value") if isinstance(found, Mapping) else found
            given.setdefault(question, []).append((item.get("status"), value))
    _not_discarded([status for found in given.values() for status, _ in found])
    return {**facts, **{question: value for question, found in given.items() if (value := _first(found)) is not None}}


def _submitted_columns(row: Row, answered: Mapping[str, str]) -> dict[str, Any]:
    """`question.responses` and `question.responses.status`, as Argilla writes data sets."""
    given: dict[str, list[tuple[Any, Any]]] = {}
    for question, key in answered.items():
        values, states = decoded(row[key]), decoded(row.get(f"{key}.status"))
        values = values if isinstance(values, list) else []
        states = states if isinstance(states, list) and len(states) == len(values) else [None] * len(values)
        given[question] = list(zip(states, values, strict=True))
    _not_discarded([status for found in given.values() for status, _ in found])
    return {question: value for question, found in given.items() if (value := _first(found)) is not None}


def _not_discarded(states: list[Any]) -> None:
    if states and all(status == "discarded" for status in states):
        raise LeftOutError("the annotators discarded the record")


def _first(found: list[tuple[Any, Any]]) -> Any:
    return next((value for status, value in found if status in (None, "submitted") and not is_empty(value)), None)


def _langfuse(row: Row) -> Row:
    """`input` and `output` under erratad's names, and each score as a column, its comment as the reason."""
    scores: dict[str, Any] = {}
    found = decoded(row.get("scores"))
    if isinstance(found, Mapping):
        found = [{"name": name, "value": value} for name, value in found.items()]
    for item in found if isinstance(found, list) else ():
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            name, value = column_name(item["name"]), item.get("value")
            scores.setdefault(name, item.get("stringValue") if value is None else value)
            if isinstance(item.get("comment"), str):
                scores.setdefault("reason", item["comment"])
    plain = {key: value for key, value in row.items() if key not in {"input", "output"}}
    return {
        **scores,
        **plain,
        "prompt": row.get("prompt") or row["input"],
        "response": row.get("response", row.get("output")),
    }
