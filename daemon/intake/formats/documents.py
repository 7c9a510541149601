"""Rows of JSON files: one object per line, an array of objects, or one object that holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from daemon.intake.formats.cells import RowError

LOOK_AHEAD = 20
"""Lines that are read to tell one object per line from one document."""
Numbered = Iterator[tuple[int, "dict[str, Any] | RowError"]]
_BLANK = re.compile(r"[\s,\ufeff]*")


def json_rows(lines: Iterator[str]) -> Numbered:
    """Line numbers and rows; for an unreadable row, the error instead. A document is read as a whole."""
    head = list(islice(lines, LOOK_AHEAD))
    everything = chain(head, lines)
    return _lines(everything) if _is_one_row_per_line(head) else _objects("".join(everything))


def _is_one_row_per_line(head: list[str]) -> bool:
    filled = [text for line in head if (text := line.strip("\ufeff \t\r\n"))]
    if filled and filled[0].startswith("["):
        return len(filled) > 1 and _is_json(filled[0])
    return not filled or any(line.startswith("{") and _is_json(line) for line in head)


def _is_json(text: str) -> bool:
    try:
        json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return True


def _objects(text: str) -> Numbered:
    """The objects of an array, or objects one after the other, over any number of lines.

    After an unreadable one, reading goes on at the next line that begins like the first object.
    """
    decoder = json.JSONDecoder(parse_constant=lambda _name: None)
    start = _BLANK.match(text).end()  # type: ignore[union-attr]  # matches the empty text, too
    position = _next(text, start + 1) if text.startswith("[", start) else start
    begin = re.compile(rf"^{re.escape(_indent(text, position))}(?=\{{)", re.MULTILINE)
    line, counted = 1, 0
    while position < len(text) and text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            row, end = decoder.raw_decode(text, position)
            problem = None if isinstance(row, dict) else "must be a JSON object"
            problem = "is not UTF-8" if "\udcff" in text[position:end] else problem
        except (ValueError, RecursionError) as exc:
            found = begin.search(text, position + 1)
            end, problem = found.end() if found else len(text), f"is not JSON: {exc}"
        yield line, row if problem is None else RowError("row", problem)
        position = _next(text, end)


def _next(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return position if found is None else found.end()


def _indent(text: str, position: int) -> str:
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return before if not before.strip() else ""


def _lines(lines: Iterator[str]) -> Numbered:
    for number, line in enumerate(lines, 1):
        content = line.lstrip("\ufeff") if number == 1 else line
        if content.strip():
            yield number, _row(content)


def _row(line: str) -> dict[str, Any] | RowError:
    if "\udcff" in line:
        return RowError("row", "is not UTF-8")
    try:
        row = json.loads(line, parse_constant=lambda _name: None)
    except (ValueError, RecursionError) as exc:
        return RowError("row", f"is not JSON: {exc}")
    return row if isinstance(row, dict) else RowError("row", "must be a JSON object")
