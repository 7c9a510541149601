"""Which messages were in work when the process died, so that one deadly message is not read again without end.

A file names the messages in work. A process that finds names in it knows that its predecessor died with them. It takes
these one at a time, so the next death has one message; after `MAX_DEATHS` that message is a dead letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from connectors.kafka.consumer import RawRecord

MAX_DEATHS = 3


class Attempts:
    """`path` None: nothing is remembered. A file that cannot be written or read costs only the memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._deaths: dict[str, int] = {}
        if path is not None:
            with suppress(OSError, ValueError, TypeError, AttributeError):
                found = json.loads(path.read_text(encoding="utf-8"))
                self._deaths = {str(name): int(count) for name, count in found["deaths"].items()}
                for name in found["in_work"]:
                    self._deaths[name] = self._deaths.get(name, 0) + 1
        self._write([])

    def deaths(self, record: RawRecord) -> int:
        """How often a process died with this message in work."""
        return self._deaths.get(_name(record), 0) if self._deaths else 0

    def parts(self, records: Sequence[RawRecord], *, most_bytes: int) -> Iterator[list[RawRecord]]:
        """The records in order, in parts: a suspect alone, others up to `most_bytes` together."""
        part: list[RawRecord] = []
        size = 0
        for record in records:
            length = len(record.value or b"")
            if part and (size + length > most_bytes or self.deaths(record) or self.deaths(part[0])):
                yield part
                part, size = [], 0
            part.append(record)
            size += length
        if part:
            yield part

    @contextmanager
    def in_work(self, records: Sequence[RawRecord]) -> Iterator[None]:
        """The messages are in work inside; an exception is no death."""
        self._write([_name(record) for record in records])
        try:
            yield
        finally:
            self._write([])

    def forget(self, records: Sequence[RawRecord]) -> None:
        """These messages are handled."""
        for record in records if self._deaths else ():
            self._deaths.pop(_name(record), None)

    def _write(self, in_work: list[str]) -> None:
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with suppress(OSError):
            new.write_text(json.dumps({"deaths": self._deaths, "in_work": in_work}), encoding="utf-8")
            new.replace(self._path)


def _name(record: RawRecord) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"
