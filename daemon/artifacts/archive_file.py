"""Parquet files of the archive: one row for a report, with the rows of each of its tables as JSON.

The first columns repeat what one filters by, so that other programs can search the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from daemon.artifacts.files import sha256_file, sync
from daemon.errors import ArchiveError

Rows: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of a report by table; their values are JSON."""
REPORTS = "reports"
"""The table with one row for each report."""
_SHOWN = ("id", "state", "principal", "tenant", "category", "severity", "model")
_RECEIVED_AT = "received_at"


def write_reports(path: Path, reports: Mapping[str, Rows]) -> str:
    """Write a file that is complete or absent, and compare it with what was to be written; returns its SHA-256.

    Raises:
        ArchiveError: The disk returned something else, or pyarrow is not installed.
        OSError: The file cannot be written.
    """
    arrow, parquet = _pyarrow()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = partial_of(path)
    temporary.touch(mode=0o600)
    parquet.write_table(_table(arrow, reports), temporary, compression="zstd")
    sync(temporary)
    sha256 = sha256_file(temporary)
    if read_reports(temporary, sha256=sha256) != reports:
        raise ArchiveError(f"{temporary} does not hold what was written to it; look at the disk. Nothing was moved")
    temporary.replace(path)
    sync(path.parent)
    sync(path.parent.parent)
    return sha256


def read_reports(path: Path, *, sha256: str) -> dict[str, Rows]:
    """The rows of each report in the file.

    Raises:
        ArchiveError: The file is missing, it is not the one that was written, or pyarrow is not installed.
    """
    _, parquet = _pyarrow()
    try:
        if sha256_file(path) != sha256:
            raise ArchiveError(f"{path} is not the file that was written; bring it back from a backup")
        found = parquet.ParquetFile(path).read().to_pylist()
    except OSError as exc:
        raise ArchiveError(f"{path} cannot be read ({exc.strerror}); bring it back from a backup") from exc
    names = [name for name in found[0] if name not in {*_SHOWN, _RECEIVED_AT}] if found else []
    return {row["id"]: {name: json.loads(row[name]) for name in names} for row in found}


def partial_of(path: Path) -> Path:
    """The name of the file until it is complete."""
    return path.with_name(f".{path.name}.partial")


def _table(arrow: Any, reports: Mapping[str, Rows]) -> Any:
    mains = [rows[REPORTS][0] for rows in reports.values()]
    columns = {name: arrow.array([row[name] for row in mains], arrow.string()) for name in _SHOWN}
    times = [datetime.fromisoformat(row[_RECEIVED_AT]) for row in mains]
    columns[_RECEIVED_AT] = arrow.array(times, arrow.timestamp("us", tz="UTC"))
    for name in next(iter(reports.values())):
        columns[name] = arrow.array([json.dumps(rows[name]) for rows in reports.values()], arrow.string())
    return arrow.table(columns)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as exc:
        raise ArchiveError("the archive needs pyarrow: pip install 'erratad[archive]'") from exc
    return arrow, parquet
