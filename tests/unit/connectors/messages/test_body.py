"""From bytes to text: packing, byte order marks, and bounds."""

from __future__ import annotations

import codecs
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.messages.body import MAX_MEMBERS, TooLargeError, gunzipped, plain_text

TEXT = '{"a": "é"}'
BODIES = {
    "plain": TEXT.encode(),
    "UTF-8 mark": codecs.BOM_UTF8 + TEXT.encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 big end first": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-32 big end first": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip with a mark": gzip.compress(codecs.BOM_UTF8 + TEXT.encode()),
    "two gzip members": gzip.compress(TEXT[:4].encode()) + gzip.compress(TEXT[4:].encode()),
}


@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES)
def test_the_text_is_the_same_however_it_is_packed(raw: bytes) -> None:
    assert plain_text(raw, max_bytes=100) == TEXT


@given(st.binary(max_size=200))
def test_any_bytes_after_a_gzip_header_are_unpacked_or_refused(tail: bytes) -> None:
    for raw in (b"\x1f\x8b" + tail, gzip.compress(b"x") + tail):
        try:
            gunzipped(raw, max_bytes=100)
        except ValueError:
            continue


def test_no_more_is_unpacked_than_the_bound() -> None:
    assert gunzipped(gzip.compress(b"x" * 100), max_bytes=100) == b"x" * 100
    for raw in (gzip.compress(b"x" * 101), gzip.compress(b"x" * 60) * 2):
        with pytest.raises(TooLargeError, match="unpacks to more than 100 bytes"):
            gunzipped(raw, max_bytes=100)


def test_many_empty_members_are_refused() -> None:
    with pytest.raises(ValueError, match="gzip members"):
        gunzipped(gzip.compress(b"") * MAX_MEMBERS, max_bytes=100)
