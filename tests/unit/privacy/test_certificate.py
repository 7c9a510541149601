"""A certificate that was changed, or signed by another key, is not genuine."""

from __future__ import annotations

import pytest

from daemon.privacy.certificate import is_genuine, public_key, signed
from daemon.privacy.keys import Keys

KEYS, OTHERS = Keys(b"k" * 32), Keys(b"o" * 32)
CONTENT = {"report_id": "r-1", "remains": [{"what": "weights", "until": "2026-12-01"}], "ü": None}


def test_a_signed_certificate_is_genuine_for_its_key_only() -> None:
    certificate = signed(CONTENT, KEYS)
    assert is_genuine(certificate, public_key(KEYS))
    assert not is_genuine(certificate, public_key(OTHERS))
    assert not is_genuine(signed(CONTENT, OTHERS) | {"public_key": public_key(KEYS)}, public_key(KEYS))


@pytest.mark.parametrize(
    "change", [{"report_id": "r-2"}, {"remains": []}, {"signature": ""}, {"signature": "zz"}, {"more": "1"}]
)
def test_a_changed_certificate_is_not(change: dict[str, object]) -> None:
    certificate = signed(CONTENT, KEYS) | {name: str(value) for name, value in change.items()}
    assert not is_genuine(certificate, public_key(KEYS))
