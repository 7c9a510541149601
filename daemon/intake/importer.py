"""Imports annotated data (PKU-SafeRLHF-style rows, JSONL or CSV) as flagged responses into the store.

Row shapes (other columns are ignored):

- ``prompt, response, is_safe``: flagged if `is_safe` is false.
- ``prompt, response_0, response_1, is_response_0_safe, is_response_1_safe``: each unsafe response is flagged. The other
  response is the correction if it is safe. `response_0_harm_category` and `response_0_severity_level` are used.
- ``prompt, response: [safer, less safe]``: the second is flagged, the first is its correction.

Columns `reason`, `category`, `severity` and `correction` are used if present. Ids are derived from prompt and response,
so importing a file again changes nothing.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from connectors.messages import FlaggedResponse
from daemon.errors import ErratadError
from daemon.records import MAX_NUMBER, Source
from daemon.store import Added, Reports

BATCH = 200
NO_CAP = MAX_NUMBER
"""No limit per reporter: the operator who imports a file is trusted."""
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)
"""Annotated data has no date. A date that differs between imports would be a conflict."""
MAX_FIELD_BYTES = 1_048_576
SEVERITIES = {"0": "low", "1": "low", "2": "medium", "3": "high"}
TRUE, FALSE = {"true", "1", "yes"}, {"false", "0", "no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """A row that was not imported; lines count from 1."""

    line: int
    field: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSummary:
    """Result of an import. A row with two unsafe responses counts twice in `outcomes`."""

    rows: int
    safe: int
    outcomes: Mapping[Added, int] = field(default_factory=dict)
    problems: tuple[RowProblem, ...] = ()


class RowError(ErratadError):
    """A row cannot be imported because of one field."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.field = name
        self.detail = detail


def import_file(path: Path, reports: Reports, on_rows: Callable[[int], None] = lambda _rows: None) -> ImportSummary:
    """Store all unsafe responses of a ``.csv`` or JSONL file. Bad rows are skipped and reported.

    `on_rows` is called after each stored batch with the number of rows read.

    Raises:
        ErratadError: when the file cannot be read.
        StoreUnavailableError: when the database is unreachable. Import the file again: no row is stored twice.
    """
    rows = safe = 0
    problems: list[RowProblem] = []
    outcomes: Counter[Added] = Counter()
    batch: list[tuple[int, FlaggedResponse]] = []
    for line, row in _rows(path):
        rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            flagged = list(flagged_in(row))
        except RowError as exc:
            problems.append(RowProblem(line=line, field=exc.field, detail=exc.detail))
            continue
        safe += not flagged
        batch.extend((line, item) for item in flagged)
        if len(batch) >= BATCH:
            problems.extend(_store(batch, reports, outcomes))
            batch.clear()
            on_rows(rows)
    problems.extend(_store(batch, reports, outcomes))
    return ImportSummary(rows=rows, safe=safe, outcomes=dict(outcomes), problems=tuple(problems))


def flagged_in(row: Mapping[str, Any]) -> Iterator[FlaggedResponse]:
    """The unsafe responses of one row.

    Raises:
        RowError: names the missing or wrong field.
    """
    if _has(row, "response_0"):
        yield from _pair(row)
    elif isinstance(response := _list_or_text(row), list):
        yield _flag(row, _text(response[1], "response.1"), correction=_text(response[0], "response.0"))
    elif not _truth(row, "is_safe"):
        yield _flag(row, response)


def _pair(row: Mapping[str, Any]) -> Iterator[FlaggedResponse]:
    texts = [_text(row.get(f"response_{i}"), f"response_{i}") for i in (0, 1)]
    safe = [_truth(row, f"is_response_{i}_safe") for i in (0, 1)]
    for i, other in ((0, 1), (1, 0)):
        if not safe[i]:
            facts = {
                "category": _harm(row.get(f"response_{i}_harm_category")),
                "severity": SEVERITIES.get(str(row.get(f"response_{i}_severity_level", ""))),
                **{key: value for key, value in row.items() if value not in (None, "")},
            }
            yield _flag(facts, texts[i], correction=texts[other] if safe[other] else None)


def _flag(row: Mapping[str, Any], response: str, *, correction: str | None = None) -> FlaggedResponse:
    prompt = _text(row.get("prompt"), "prompt")
    category = row.get("category") or "harmful"
    digest = hashlib.sha256(json.dumps([prompt, response]).encode()).hexdigest()
    values = {
        "version": 1,
        "id": f"import-{digest[:32]}",
        "occurred_at": UNDATED,
        "model": row.get("model") or "unknown",
        "messages": [{"role": "user", "content": prompt}],
        "response": response,
        "reason": row.get("reason") or f"Annotators marked the response as {str(category).replace('-', ' ')}.",
        "category": category,
        "severity": row.get("severity") or "medium",
        "correction": row.get("correction") or correction,
        "reporter": "import",
    }
    try:
        return FlaggedResponse.model_validate(values)
    except ValidationError as exc:
        error = exc.errors()[0]
        name = ".".join(str(part) for part in error["loc"]).replace("messages.0.content", "prompt")
        raise RowError(name, error["msg"]) from exc


def _has(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) not in (None, "")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise RowError(name, "is missing or not a text")
    return value


def _truth(row: Mapping[str, Any], name: str) -> bool:
    word = str(row.get(name, "")).strip().lower()
    if word not in TRUE | FALSE:
        raise RowError(name, f"must be true or false, not {row.get(name)!r:.40}")
    return word in TRUE


def _list_or_text(row: Mapping[str, Any]) -> list[Any] | str:
    """`response`: one text, or the safer and the less safe text (in CSV a JSON array, if `is_safe` is empty)."""
    response = row.get("response")
    if isinstance(response, str) and response.startswith("[") and not _has(row, "is_safe"):
        try:
            response = json.loads(response)
        except (ValueError, RecursionError) as exc:
            raise RowError("response", f"is not a JSON array: {exc}") from exc
    if not isinstance(response, list):
        return _text(response, "response")
    if len(response) != 2:
        raise RowError("response", f"must hold two texts, the safer one first; it holds {len(response)}")
    return response


def _harm(categories: object) -> str | None:
    """The first category that is true, in erratad's notation: 'Mental Manipulation' -> 'mental-manipulation'."""
    if not isinstance(categories, Mapping):
        return None
    name = next((str(name) for name, applies in categories.items() if applies is True), None)
    return None if name is None else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64] or None


def _store(
    batch: list[tuple[int, FlaggedResponse]], reports: Reports, outcomes: Counter[Added]
) -> Iterator[RowProblem]:
    added = reports.add([(flagged, Source(channel="import")) for _, flagged in batch], reporter_cap=NO_CAP)
    for (line, flagged), outcome in zip(batch, added, strict=True):
        outcomes[outcome] += 1
        if outcome == Added.CONFLICT:
            detail = (
                f"report {flagged.id} is stored already with another reason, category or correction; it stays as it is"
            )
            yield RowProblem(line=line, field="response", detail=detail)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    """Line numbers and rows; for an unreadable line, the error instead of the row."""
    try:
        with path.open("rb") as file:
            yield from _csv_rows(file) if path.suffix.lower() == ".csv" else _jsonl_rows(file)
    except OSError as exc:
        raise ErratadError(f"cannot read {path}: {exc.strerror}; give an existing .csv or .jsonl file") from exc


def _jsonl_rows(file: Iterator[bytes]) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _json_row(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _json_row(line: bytes) -> Mapping[str, Any] | RowError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        return RowError("row", f"is not JSON: {exc}")
    return row if isinstance(row, dict) else RowError("row", "must be a JSON object")


class _Lines:
    """Decodes and counts lines: the csv module does not count the line on which it fails.

    A byte that is not UTF-8 becomes a lone surrogate; the message schema rejects it with the field's name.
    """

    def __init__(self, file: Iterator[bytes]) -> None:
        self._file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            yield line.decode("utf-8-sig", "surrogateescape")


def _csv_rows(file: Iterator[bytes]) -> Iterator[tuple[int, Mapping[str, Any] | RowError]]:
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines = _Lines(file)
    reader = csv.DictReader(lines)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield lines.number, RowError("row", f"is not CSV: {exc}")
            continue
        yield lines.number, row
