"""Rows of tables: CSV and its relatives with any delimiter, and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from daemon.errors import ConfigError
from daemon.intake.formats.cells import RowError, known

DELIMITERS = (",", ";", "\t", "|", "^", "~", "\x01", "\x1f")
MAX_FIELD_BYTES = 1_048_576
BATCH_ROWS = 200
SAMPLE_RECORDS = 20
MAX_RESTARTS = 100
"""How often reading starts again after an unreadable record that spans lines: each time reads its lines twice."""


def delimiter_of(sample: str, *, whole: bool) -> str:
    """The delimiter whose header names the most known columns, and else the one with the most even records."""
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines = sample.lstrip("\ufeff").splitlines(keepends=True)
    lines = lines if whole or len(lines) < 2 else lines[:-1]
    if lines and lines[0].strip().lower().startswith("sep=") and len(lines[0].strip()) == 5:
        return lines[0].strip()[4]
    return max(DELIMITERS, key=lambda delimiter: _fit(lines, delimiter))


def _fit(lines: list[str], delimiter: str) -> tuple[int, int, int]:
    try:
        records = [one for one in islice(csv.reader(lines, delimiter=delimiter), SAMPLE_RECORDS) if one]
    except csv.Error:
        return (0, 0, 0)
    if not records or len(records[0]) < 2:
        return (0, 0, 0)
    even = sum(len(record) == len(records[0]) for record in records)
    return (sum(known(name) for name in records[0]), even, len(records[0]))


class _Lines:
    """Counts lines and keeps those of the current record: an unreadable one must not hide the lines after its first."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self.number = 0
        self.record: list[str] = []
        self._restarts = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop(0) if self._again else next(self._lines)
        self.number += 1
        self.record.append(line)
        return line

    def begin(self) -> int:
        """Begin a record; returns the number of its first line."""
        self.record = []
        return self.number + 1

    def restart_after_first(self) -> None:
        """Read the lines of the current record but its first once more."""
        if len(self.record) > 1 and self._restarts < MAX_RESTARTS:
            self._restarts += 1
            self.number -= len(self.record) - 1
            self._again = self.record[1:] + self._again


def csv_rows(text: Iterator[str], delimiter: str | None) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """First line numbers and rows of a table; an empty cell is None."""
    csv.field_size_limit(MAX_FIELD_BYTES)
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter or ",", strict=True)
    header: list[str] | None = None
    while True:
        line = lines.begin()
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            lines.restart_after_first()
            reader = csv.reader(lines, delimiter=delimiter or ",", strict=True)
            yield line, RowError("row", f"is not CSV: {exc}")
            continue
        if not record or (header is None and len(record) <= 2 and record[0].lower().startswith("sep=")):
            continue
        if header is None:
            header = [name.strip() for name in record]
        elif len(record) > len(header):
            yield line, RowError("row", f"has {len(record)} columns, and the header has {len(header)}")
        else:
            yield line, {name: value or None for name, value in zip(header, record, strict=False)}


def parquet_rows(file: IO[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """Row numbers and rows of a Parquet file.

    Raises:
        ConfigError: when pyarrow is not installed, or the file is damaged.
    """
    try:
        from pyarrow import ArrowException  # noqa: PLC0415 - an extra
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigError(f"{path} is a Parquet file, which needs pyarrow: pip install 'erratad[import]'") from exc
    number = 0
    try:
        for batch in ParquetFile(file).iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, _plain(row)
    except ArrowException as exc:
        raise ConfigError(f"{path} cannot be read as Parquet after row {number}: {exc}") from exc


def _plain(value: Any) -> Any:
    """The value without what JSON has no form for: maps as dicts, bytes as text, times as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
