"""From the bytes of a message or a line to its text: gzip, byte order marks, and framings that are no text."""

from __future__ import annotations

import codecs
import zlib

GZIP = b"\x1f\x8b"
_WITH_GZIP_HEADER = 31
"""The window size for `zlib.decompressobj` that expects a gzip header."""
MAX_MEMBERS = 16
"""Each further member copies the rest of the bytes: many empty ones would cost minutes."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONFLUENT_HEADER_BYTES = 5


class TooLargeError(ValueError):
    """The unpacked bytes exceed the limit."""


def plain_text(raw: bytes, *, max_bytes: int) -> str:
    """The text of a message: UTF-8, or what its byte order mark names; also packed with gzip.

    Raises:
        TooLargeError: it unpacks to more than `max_bytes`; no more than that is ever unpacked.
        UnicodeDecodeError: it is not in the encoding.
        ValueError: it is no gzip, or has the framing of Confluent's serializers.
    """
    if raw.startswith(GZIP):
        raw = gunzipped(raw, max_bytes=max_bytes)
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding)
    _refuse_framing(raw)
    return raw.decode("utf-8")


def _refuse_framing(raw: bytes) -> None:
    """Name Confluent's framing: a zero byte and a schema id of 4 bytes before the value."""
    utf_16_or_32 = (b"\x00{\x00", b"\x00\x00\x00{\x00\x00\x00")
    if len(raw) <= _CONFLUENT_HEADER_BYTES or raw[0] != 0 or raw.startswith(utf_16_or_32):
        return
    rest = raw[_CONFLUENT_HEADER_BYTES:].lstrip()
    what = "JSON" if rest.startswith(b"{") else "a value that is not plain JSON (Avro or Protobuf?)"
    raise ValueError(
        f"Confluent framing: a zero byte and schema id {int.from_bytes(raw[1:_CONFLUENT_HEADER_BYTES])} stand before "
        f"{what}; send plain JSON, without a serializer of the schema registry"
    )


def gunzipped(raw: bytes, *, max_bytes: int) -> bytes:
    """The content of one or more gzip members.

    Raises:
        TooLargeError: it is longer than `max_bytes`.
        ValueError: it is damaged or cut off.
    """
    unpacked = b""
    for _ in range(MAX_MEMBERS):
        if not raw:
            return unpacked
        member = zlib.decompressobj(_WITH_GZIP_HEADER)
        try:
            unpacked += member.decompress(raw, max_bytes - len(unpacked) + 1)
        except zlib.error as exc:
            raise ValueError(f"is not gzip: {exc}") from exc
        if len(unpacked) > max_bytes:
            raise TooLargeError(f"unpacks to more than {max_bytes} bytes")
        if not member.eof:
            raise ValueError("is not gzip: it ends too early")
        raw = member.unused_data
    raise ValueError(f"has {MAX_MEMBERS} gzip members or more; send one")
