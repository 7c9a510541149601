"""Atomic writes: a file or folder is complete or absent, even after a power failure."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file. Readers see the old or the new content, never a part, even with several writers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def publish_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Create a folder of read-only files atomically.

    Raises:
        OSError: when it cannot be written, or the folder exists and is not empty.
    """
    temporary = fresh_partial(folder)
    for name, content in files.items():
        (temporary / name).write_bytes(content)
        (temporary / name).chmod(0o444)
    publish(temporary, folder)


def fresh_partial(folder: Path) -> Path:
    """Create an empty folder beside `folder`, to be filled and published. Leftovers of a crash are removed."""
    temporary = folder.with_name(f".{folder.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def publish(temporary: Path, folder: Path) -> None:
    """Move a filled folder to its place by one rename; content is flushed before, the parent after."""
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    temporary.rename(folder)
    sync(folder.parent)
