"""Locks between processes. The kernel releases them when the holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def try_lock(path: Path) -> BinaryIO | None:
    """Take the lock. The returned file holds it until it is closed or this process dies; None if it is taken.

    The package filelock (4.2) would save no code, and on file systems without flock it falls back to a lock that
    outlives its holder.

    Raises:
        OSError: when the file cannot be opened.
    """
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
