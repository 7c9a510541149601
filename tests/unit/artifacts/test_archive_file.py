"""Files of the archive: complete or absent, and read back only if they are what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from daemon.artifacts import archive_file
from daemon.artifacts.archive_file import partial_of, read_reports, write_reports
from daemon.errors import ArchiveError

AT = "2026-03-04T05:06:07.000008+00:00"


def reports(*ids: str) -> dict[str, Any]:
    shown = {"state": "resolved", "principal": "p", "tenant": None, "category": "c", "severity": "low", "model": "m"}
    return {
        one: {
            "reports": [{"id": one, "received_at": AT, **shown}],
            "lessons": [{"analysis": "Wrong: \u2028 \U0001f600"}],
        }
        for one in ids
    }


def test_what_is_read_is_what_was_written_and_others_can_read_it(tmp_path: Path) -> None:
    path, written = tmp_path / "2026-03" / "a.parquet", reports("a", "b")
    sha256 = write_reports(path, written)
    assert read_reports(path, sha256=sha256) == written
    file = parquet.ParquetFile(path)
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    [first, _] = file.read(["id", "received_at", "tenant"]).to_pylist()
    assert (first["id"], first["received_at"].isoformat(), first["tenant"]) == ("a", AT, None)


def test_a_file_that_the_disk_changed_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "2026-03" / "a.parquet"
    monkeypatch.setattr(archive_file, "read_reports", lambda *_, **__: reports("b"))
    with pytest.raises(ArchiveError, match="does not hold what was written"):
        write_reports(path, reports("a"))
    assert not path.exists()
    assert partial_of(path).exists(), "the next step deletes it"


def test_another_file_under_its_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "2026-03" / "a.parquet"
    write_reports(path, reports("a"))
    with pytest.raises(ArchiveError, match="is not the file that was written"):
        read_reports(path, sha256="0" * 64)
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_reports(tmp_path / "gone", sha256="0" * 64)
