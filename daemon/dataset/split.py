"""The side of a new cluster: training or holdout, by a secret key, so that no sender can steer it.

Whoever could tell the side of a prompt beforehand could put reports only where they help: into the training set, or
beside the lessons that are then kept out of it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections import Counter
from pathlib import Path

from daemon.artifacts.files import sync
from daemon.config.secret import secret
from daemon.errors import DatasetError
from daemon.records import Split

KEY_FILE = "split.key"
"""In the data directory, readable for the daemon only. A lost key is made anew: known clusters keep their side."""
KEY_BYTES = 32
_RANGE = 2**64
_PULL = 0.5
"""By how much the chance rises for each cluster that the holdout side lacks."""


def split_key(data_dir: Path, variable: str | None) -> bytes:
    """The key of the environment variable or, if none is named, of the data directory's file, which is made if needed.

    Raises:
        ConfigError: the variable is not set.
        DatasetError: the file cannot be read or written, or is empty.
    """
    if (configured := secret(variable)) is not None:
        return configured.encode()
    path = data_dir / KEY_FILE
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
    except OSError as exc:
        raise DatasetError(f"the key of the holdout cannot be used: {exc}; repair {path}, or remove it") from exc
    if not key:
        raise DatasetError(f"{path} is empty; remove it, and a new key is made")
    return key


def next_split(sides: Counter[Split], holdout_fraction: float, *, key: bytes, leader_text: str) -> Split:
    """The side of the next cluster of a kind, of whose clusters so many are on each side.

    It is held out with a chance that grows with what the holdout side lacks, so the share stays within two clusters of
    its target, and each place in the order has about the same chance. The first cluster always goes to training,
    because a kind with only held-out reports could not be learned. There are few kinds, so few senders can use that.
    """
    if not sides.total() or not holdout_fraction:
        return Split.TRAIN
    lacking = holdout_fraction * sides.total() - sides[Split.HOLDOUT]
    chance = holdout_fraction + _PULL * lacking
    digest = hmac.digest(key, leader_text.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return Split.HOLDOUT if int.from_bytes(digest[:8], "big") / _RANGE < chance else Split.TRAIN


def _make(path: Path) -> None:
    """Write a new key. Only one of several writers succeeds: no reader sees a part of a key, or another one later."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    sync(temporary)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    sync(path.parent)
