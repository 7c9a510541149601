"""Opens a file with rows: finds out compression, encoding and kind, and reads the rows one by one."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import lzma
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from daemon.errors import ConfigError, ErratadError
from daemon.intake.formats.cells import RowError
from daemon.intake.formats.documents import json_rows
from daemon.intake.formats.tables import csv_rows, delimiter_of, parquet_rows

Rows = Iterator[tuple[int, "dict[str, Any] | RowError"]]
"""Line (or row) numbers from 1 and rows; for an unreadable row, the error instead."""
SAMPLE_BYTES = 65_536
_OPENERS: Mapping[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive (an .xlsx file is one, too); unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"\xd0\xcf\x11\xe0": "an old Office file; save the sheet as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
}
_PARQUET = b"PAR1"
_LONG_RUN = re.compile(rb"[\x80-\xff]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFile:
    """A file of rows, and everything found out about it."""

    path: Path
    kind: str
    """"JSON", "CSV" or "Parquet"."""
    compression: str | None
    encoding: str
    guessed: bool
    """The encoding is a guess: the bytes are not UTF-8."""
    delimiter: str | None

    @property
    def text(self) -> str:
        """The findings in words."""
        parts = [self.kind if self.compression is None else f"{self.kind} in {self.compression}"]
        if self.kind != "Parquet":
            parts.append(f"{self.encoding}{' (a guess; --encoding sets it)' if self.guessed else ''}")
        if self.delimiter is not None:
            parts.append(f"delimiter {self.delimiter!r}")
        return ", ".join(parts)

    def rows(self) -> Rows:
        """All rows of the file.

        Raises:
            ErratadError: when the file cannot be read to its end.
        """
        try:
            with _opened(self.path) as file:
                if self.kind == "Parquet":
                    yield from parquet_rows(file, self.path)
                    return
                # each byte that is not of the encoding becomes a lone surrogate: the schema rejects that text only
                newline = "" if self.delimiter else "\n"
                with TextIOWrapper(file, encoding=self.encoding, errors="erratad-surrogate", newline=newline) as text:
                    yield from csv_rows(text, self.delimiter) if self.delimiter else json_rows(text)
        except (OSError, EOFError, lzma.LZMAError) as exc:
            raise _unreadable(self.path, exc) from exc
        except csv.Error as exc:
            raise ErratadError(f"cannot read {self.path}: {exc}") from exc


def open_rows(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> RowFile:
    """Find out what the file is. Only its content counts; the name decides between CSV and JSON.

    Raises:
        ConfigError: when erratad cannot read files of this kind, or cannot recognise the encoding.
        ErratadError: when it cannot be opened.
    """
    try:
        with path.open("rb") as raw:
            magic = raw.read(8)
        compression = next((name for mark, (name, _) in _OPENERS.items() if magic.startswith(mark)), None)
        with _opened(path) as file:
            sample = file.read(SAMPLE_BYTES)
        if sample.startswith(_PARQUET):
            return RowFile(
                path=path, kind="Parquet", compression=compression, encoding="", guessed=False, delimiter=None
            )
        foreign = next((what for mark, what in _FOREIGN.items() if sample.startswith(mark)), None)
        if foreign is not None:
            raise ConfigError(f"{path} is {foreign}")
        is_json = _is_json(path, sample, encoding)
        found, guessed = (encoding, False) if encoding else _encoding(path, sample, is_json=is_json)
        if not is_json and delimiter is None:
            delimiter = delimiter_of(sample.decode(_known_codec(found), "replace"), whole=len(sample) < SAMPLE_BYTES)
    except (OSError, EOFError, lzma.LZMAError) as exc:
        raise _unreadable(path, exc) from exc
    return RowFile(
        path=path,
        kind="JSON" if is_json else "CSV",
        compression=compression,
        encoding=_known_codec(found),
        guessed=guessed,
        delimiter=None if is_json else delimiter,
    )


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        magic = raw.read(8)
    opener = next((opener for mark, (_, opener) in _OPENERS.items() if magic.startswith(mark)), None)
    return cast("IO[bytes]", path.open("rb") if opener is None else opener(path))


def _unreadable(path: Path, exc: Exception) -> ErratadError:
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ErratadError(f"cannot read {path}: {why}; give an existing, complete file")


def _known_codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError as exc:
        raise ConfigError(f"--encoding: {name!r} is not an encoding; give one such as utf-8, cp1252, gb18030") from exc


def _is_json(path: Path, sample: bytes, encoding: str | None) -> bool:
    names = {suffix.lower() for suffix in path.suffixes}
    if names & {".csv", ".tsv", ".tab", ".psv"}:
        return False
    if names & {".json", ".jsonl", ".ndjson", ".jsonlines"}:
        return True
    mark = encoding or _marked(sample) or "utf-8"
    return sample.decode(_known_codec(mark), "replace").lstrip("\ufeff \t\r\n").startswith(("{", "["))


def _marked(sample: bytes) -> str | None:
    """The encoding by its byte order mark, or by the zero bytes of UTF-16 without one."""
    found = next((name for mark, name in _MARKS if sample.startswith(mark)), None)
    if found is None and b"\x00" in sample:
        head = sample[:4096]
        even, odd = head[::2].count(0), head[1::2].count(0)
        if max(even, odd) > len(head) // 8 and min(even, odd) * 8 < max(even, odd):
            return "utf-16-le" if odd > even else "utf-16-be"
    return found


def _encoding(path: Path, sample: bytes, *, is_json: bool) -> tuple[str, bool]:
    """The encoding, and whether it is a guess.

    JSON is UTF-8 or has a mark. A table in no Unicode encoding is Western European if single letters of its words are
    not ASCII; other tables are refused, because a wrong guess would be stored.
    """
    marked = _marked(sample)
    if marked is not None or is_json:
        return marked or "utf-8", False
    good = bad = runs = 0
    with _opened(path) as file:
        for line in file:
            if line.isascii():
                continue
            try:
                line.decode()
                good += 1
            except UnicodeDecodeError:
                bad += 1
                runs += _LONG_RUN.search(line) is not None
    if bad <= good:
        return "utf-8", False
    if runs * 2 > bad:
        raise ConfigError(
            f"{path} is not UTF-8, and its encoding cannot be told; give --encoding, e.g. cp1251 or gb18030"
        )
    return "cp1252", True


def _lone_surrogates(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff" * (error.end - error.start), error.end


codecs.register_error("erratad-surrogate", _lone_surrogates)
