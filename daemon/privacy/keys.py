"""The key of section `privacy`, and the keys for each purpose that are derived from it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from daemon.config import Config
from daemon.config.secret import secret
from daemon.errors import ConfigError

KEY_FILE = "privacy.key"
MIN_CHARACTERS = 32
KEY_BYTES = 32


class Purpose(StrEnum):
    CERTIFICATE = "certificate"
    PSEUDONYM = "pseudonym"
    FINGERPRINT = "fingerprint"
    ORIGINAL = "original"


class Keys:
    """Derives a key of 32 bytes per purpose, so that none tells another."""

    def __init__(self, root: bytes) -> None:
        self._root = root

    @classmethod
    def of(cls, config: Config) -> Keys:
        """The key of `privacy.key_env`, or of the file in the data directory, which is made at its first use.

        Raises:
            ConfigError: The variable is not set, the key is too short, or the file cannot be read or made.
        """
        given = secret(config.privacy.key_env)
        if given is None:
            return cls(_from_file(config.data_dir / KEY_FILE))
        if len(given) < MIN_CHARACTERS:
            raise ConfigError(
                f"the key in {config.privacy.key_env} (privacy.key_env) has {len(given)} characters, at least "
                f"{MIN_CHARACTERS} are needed; make one with `openssl rand -hex 32`"
            )
        return cls(given.encode())

    def key(self, purpose: Purpose) -> bytes:
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - many commands need no key
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"erratad {purpose}".encode())
        return derived.derive(self._root)


def _from_file(path: Path) -> bytes:
    try:
        with suppress(FileExistsError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(path)
        key = path.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be used: {exc.strerror}; repair that, or set privacy.key_env") from exc
    if len(key) < MIN_CHARACTERS:
        raise ConfigError(f"{path} holds no key; restore it from a backup, or delete it: then a new key is made")
    return key


def _make(path: Path) -> None:
    """Complete or absent, also where two processes start at once."""
    if path.exists():
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_hex(KEY_BYTES).encode())
        file.flush()
        os.fsync(descriptor)
    try:
        os.link(new, path)
    finally:
        new.unlink()
