"""Locks between processes, which the kernel frees when their holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def try_lock(path: Path) -> BinaryIO | None:
    """The open file holds the lock until it is closed or this process dies; None while another one holds it.

    Not the package filelock: it saves no line here, and by default (4.2) it falls back to a lock that outlives its
    holder where a file system has no flock.

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
