"""Encrypts kept originals: AES-256-GCM with a random nonce, bound to the id of the report."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from daemon.errors import ConfigError
from daemon.privacy.keys import Keys, Purpose

NONCE_BYTES = 12


def seal(original: bytes, report_id: str, keys: Keys) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(keys.key(Purpose.ORIGINAL)).encrypt(nonce, original, report_id.encode())


def unseal(sealed: bytes, report_id: str, keys: Keys) -> bytes:
    """Raises ConfigError if it was sealed with another key, for another report, or is damaged."""
    nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(keys.key(Purpose.ORIGINAL)).decrypt(nonce, content, report_id.encode())
    except (InvalidTag, ValueError) as exc:
        raise ConfigError(
            f"the original of report {report_id} cannot be decrypted: it was kept with another key than privacy.key_env"
        ) from exc
