"""Files and folders that are there whole or not at all, also after a power cut."""

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
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file: a reader sees the old content or the new, never a part, also with several writers at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def publish_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of read-only files appear at once.

    Raises:
        OSError: when it cannot be written, or when the folder exists and is not empty.
    """
    temporary = fresh_partial(folder)
    for name, content in files.items():
        (temporary / name).write_bytes(content)
        (temporary / name).chmod(0o444)
    publish(temporary, folder)


def fresh_partial(folder: Path) -> Path:
    """An empty folder beside `folder`, to be filled and then published; what an earlier crash left there is removed."""
    temporary = folder.with_name(f".{folder.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def publish(temporary: Path, folder: Path) -> None:
    """Put a filled folder in its place by one rename, everything flushed before and after."""
    for path in temporary.iterdir():
        sync(path)
    sync(temporary)
    temporary.rename(folder)
    sync(folder.parent)
