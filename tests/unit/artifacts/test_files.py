"""Atomic writes of files and folders."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from daemon.artifacts.files import write_atomically


def test_writers_side_by_side_leave_one_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    contents = [bytes([65 + number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(path, content), contents * 20))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
