"""A kept original is read with its key and for its report only."""

from __future__ import annotations

import pytest

from daemon.errors import ConfigError
from daemon.privacy.keys import Keys
from daemon.privacy.sealed import seal, unseal

KEYS = Keys(b"k" * 32)


def test_an_original_is_read_with_its_key() -> None:
    sealed = seal(b"private", "r-1", KEYS)
    assert b"private" not in sealed
    assert seal(b"private", "r-1", KEYS) != sealed
    assert unseal(sealed, "r-1", KEYS) == b"private"


@pytest.mark.parametrize(("report_id", "key"), [("r-2", b"k"), ("r-1", b"o")])
def test_another_key_or_report_is_refused(report_id: str, key: bytes) -> None:
    with pytest.raises(ConfigError, match=r"another key than privacy\.key_env"):
        unseal(seal(b"private", "r-1", KEYS), report_id, Keys(key * 32))
    with pytest.raises(ConfigError):
        unseal(b"short", "r-1", KEYS)
