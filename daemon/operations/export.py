"""Reports as a file: CSV for spreadsheets, JSONL for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum

from daemon.operations.views import ReportRow
from daemon.report_filter import ReportFilter
from daemon.store import Store

FIELDS = tuple(ReportRow.model_fields)
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""A spreadsheet runs a cell that begins so. The last four are the full-width forms of the first."""


class Format(StrEnum):
    CSV = "csv"
    JSONL = "jsonl"


MEDIA_TYPES = {Format.CSV: "text/csv; charset=utf-8", Format.JSONL: "application/x-ndjson"}


def exported(store: Store, wanted: ReportFilter, kind: Format) -> Iterator[str]:
    """The fields of a listing, newest first, in parts of a few hundred reports; one part at least."""
    head = _csv_lines([FIELDS]) if kind is Format.CSV else ""
    for batch in store.reports.batches(wanted):
        rows = [ReportRow.of(report) for report in batch]
        yield head + (_csv_of(rows) if kind is Format.CSV else _jsonl_of(rows))
        head = ""


def _jsonl_of(rows: Iterable[ReportRow]) -> str:
    return "".join(f"{row.model_dump_json()}\n" for row in rows)


def _csv_of(rows: Iterable[ReportRow]) -> str:
    return _csv_lines([_cell(getattr(row, name)) for name in FIELDS] for row in rows)


def _csv_lines(rows: Iterable[Iterable[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cell(value: object) -> str:
    """The value as text, with an apostrophe before what a spreadsheet would take for a formula."""
    text = "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(("\t", "\r", "\n")) else text
