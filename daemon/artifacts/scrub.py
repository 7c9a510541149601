"""Takes erased reports out of the files of a data directory: run folders, caches, logs.

A file is replaced by one without the lines in question; the manifest of a run folder says how many were erased. What
the file system keeps of a replaced file (free blocks, snapshots, backups) is beyond this module.
"""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from daemon.artifacts.files import sha256_file, write_atomically
from daemon.artifacts.run_folder import MANIFEST_FILE, DatasetFile, DatasetManifest

DERIVED = ("checkpoints", "teacher")
"""Folders of a run whose numbers come from its lines."""
WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".npy", ".gguf"})
"""Files of numbers: they hold no text."""


def scrub_runs(
    runs_dir: Path, report_ids: Collection[str], without: Callable[[str], str], system: Collection[str]
) -> int:
    """Take reports out of all run folders; returns the number of removed lines.

    Args:
        without: The text without quotes of the reports, for logs.
        system: System messages that only these reports have. Ordinary pairs with one of them go, too.
    """
    erased = 0
    for folder in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []:
        if folder.is_dir() and not folder.is_symlink():
            erased += _scrub_run(folder, report_ids, without, system)
    return erased


def _scrub_run(
    folder: Path, report_ids: Collection[str], without: Callable[[str], str], system: Collection[str]
) -> int:
    erased = {
        path.name: count
        for path in sorted(folder.glob("*.jsonl"))
        if (count := _remove_lines(path, lambda line: _is_of(line, report_ids, system)))
    }
    for path in folder.glob("*.log"):
        _rewrite(path, without)
    for name in DERIVED if erased else ():
        shutil.rmtree(folder / name, ignore_errors=True)
    _correct_manifest(folder, erased, report_ids)
    return sum(erased.values())


def _is_of(line: str, report_ids: Collection[str], system: Collection[str]) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return any(json.dumps(one) in line for one in report_ids)
    if value.get("report_id") in report_ids or value.get("id") in report_ids:
        return True
    return not value.get("report_id") and has_system(value.get("messages"), system)


def has_system(messages: Any, system: Collection[str]) -> bool:
    """Whether a message begins with one of these system messages; guidance may stand around it."""
    if not system or not isinstance(messages, list):
        return False
    contents = [one.get("content") for one in messages if isinstance(one, dict)]
    return any(isinstance(content, str) and text in content for content in contents for text in system)


def _remove_lines(path: Path, goes: Callable[[str], bool]) -> int:
    lines = path.read_bytes().split(b"\n")
    kept = [line for line in lines if not line.strip() or not goes(line.decode(errors="replace"))]
    if len(kept) < len(lines):
        write_atomically(path, b"\n".join(kept))
        path.chmod(0o444)
    return len(lines) - len(kept)


def _rewrite(path: Path, without: Callable[[str], str]) -> None:
    old = path.read_text(encoding="utf-8", errors="replace")
    new = without(old)
    if new != old:
        write_atomically(path, new.encode())


def _correct_manifest(folder: Path, erased: dict[str, int], report_ids: Collection[str]) -> None:
    """New checksums, the numbers of erased lines, and no detail about the reports. Their ids stay: they are lineage."""
    path = folder / MANIFEST_FILE
    try:
        manifest = DatasetManifest.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return
    details = [one for one in manifest.unusable if one.report_id in report_ids and one.detail]
    if not erased and not details:
        return
    files = {
        name: DatasetFile(
            sha256=sha256_file(folder / name), lines=file.lines - erased[name], report_ids=file.report_ids
        )
        if name in erased
        else file
        for name, file in manifest.files.items()
    }
    unusable = tuple(one.model_copy(update={"detail": ""}) if one in details else one for one in manifest.unusable)
    counts = {name: manifest.erased.get(name, 0) + erased.get(name, 0) for name in {*manifest.erased, *erased}}
    changed = manifest.model_copy(update={"files": files, "unusable": unusable, "erased": counts})
    write_atomically(path, changed.encode())
    path.chmod(0o444)


def scrub_lesson_answers(cache: Path, report_ids: Collection[str]) -> int:
    """Delete the base model's cached answers to the questions of these reports; returns their number."""
    gone = 0
    for path in cache.glob("*/*.json"):
        if json.loads(path.read_bytes()).get("report_id") in report_ids:
            path.unlink()
            gone += 1
    return gone


def scrub_replay(cache: Path, system: Collection[str]) -> int:
    """Delete the cached answers to ordinary prompts below one of these system messages; returns their number."""
    gone = 0
    for path in cache.glob("*/*.json") if system else ():
        if has_system(json.loads(path.read_bytes()).get("messages"), system):
            path.unlink()
            gone += 1
    return gone


def search(folder: Path, needles: Sequence[bytes]) -> tuple[int, dict[Path, list[bytes]]]:
    """The number of files looked at below a folder, and the needles in each file that holds one."""
    looked: int = 0
    found: dict[Path, list[bytes]] = {}
    for path in _files(folder):
        looked += 1
        if held := _held(path, needles):
            found[path] = held
    return looked, found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix not in WEIGHTS and path.is_file() and not path.is_symlink():
            yield path


def _held(path: Path, needles: Sequence[bytes]) -> list[bytes]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [needle for needle in needles if content.find(needle) >= 0]
    except (OSError, ValueError):  # removed meanwhile, or empty
        return []
