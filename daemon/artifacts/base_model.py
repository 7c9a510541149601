"""The fingerprint of a base model on disk."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from daemon.artifacts.files import sha256_file
from daemon.errors import ConfigError


def base_fingerprint(model_path: Path, *, key: str = "model.path") -> str:
    """SHA-256 over config.json and all weight files of the base model. A file is hashed again only after a change.

    Raises:
        ConfigError: names `key`, when the folder is not a model in safetensors format.
    """
    digest = hashlib.sha256()
    for path in [model_path / "config.json", *_weight_files(model_path, key)]:
        try:
            status = path.stat()
        except OSError as exc:
            raise ConfigError(f"{key}: {path} cannot be read: {exc.strerror}") from exc
        content = _content_sha256(path, status.st_mtime_ns, status.st_size)
        digest.update(f"{path.name} {status.st_size} {content}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _content_sha256(path: Path, _mtime_ns: int, _size: int) -> str:
    return sha256_file(path)


def _weight_files(model_path: Path, key: str) -> list[Path]:
    files = sorted(model_path.glob("*.safetensors"))
    if not files:
        raise ConfigError(f"{key}: {model_path} holds no *.safetensors; give the folder of a converted model")
    return files
