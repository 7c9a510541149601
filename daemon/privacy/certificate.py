"""Signed certificates: what was erased, what remains, where, and until when.

The signature is Ed25519 over the JSON without the field `signature`, with sorted keys and without blanks. Its public
key stands in the certificate: compare it with the one that `erratad certificate --key` prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from daemon.privacy.keys import Keys, Purpose


def signed(content: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """The content with `public_key` and `signature`, both in hexadecimal."""
    value = {**json.loads(json.dumps(content)), "public_key": public_key(keys)}
    return {**value, "signature": _private(keys).sign(_canonical(value)).hex()}


def public_key(keys: Keys) -> str:
    return _private(keys).public_key().public_bytes_raw().hex()


def is_genuine(certificate: Mapping[str, Any], key: str) -> bool:
    """Whether the holder of the public key (hexadecimal) signed exactly this."""
    value = {name: item for name, item in certificate.items() if name != "signature"}
    try:
        signature = bytes.fromhex(str(certificate.get("signature", "")))
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, _canonical(value))
    except (InvalidSignature, ValueError):
        return False
    return value.get("public_key") == key


def _private(keys: Keys) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(keys.key(Purpose.CERTIFICATE))


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
