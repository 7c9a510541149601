"""The memory of messages that were in work when the process died."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connectors.kafka.consumer import RawRecord
from daemon.intake.attempts import Attempts


def record(offset: int, size: int = 10) -> RawRecord:
    return RawRecord(
        topic="t", partition=0, offset=offset, key=None, headers=(), value=b"x" * size, timestamp_ms=1_700_000_000_000
    )


RECORDS = [record(offset) for offset in range(4)]


def dies(path: Path, records: list[RawRecord]) -> None:
    """A process begins the work and never ends it."""
    pid = os.fork()
    if pid == 0:
        with Attempts(path).in_work(records):
            os._exit(1)
    os.waitpid(pid, 0)


def test_the_messages_in_work_at_a_death_come_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "intake.json"
    dies(path, RECORDS[1:3])
    found = Attempts(path)
    assert [found.deaths(one) for one in RECORDS] == [0, 1, 1, 0]
    assert list(found.parts(RECORDS, most_bytes=1000)) == [[RECORDS[0]], [RECORDS[1]], [RECORDS[2]], [RECORDS[3]]]


def test_deaths_add_up_and_end_when_the_message_is_handled(tmp_path: Path) -> None:
    path = tmp_path / "intake.json"
    dies(path, RECORDS)
    dies(path, RECORDS[2:3])
    found = Attempts(path)
    assert [found.deaths(one) for one in RECORDS] == [1, 1, 2, 1]
    found.forget(RECORDS)
    with found.in_work([record(9)]):
        pass
    assert [Attempts(path).deaths(one) for one in [*RECORDS, record(9)]] == [0] * 5


def test_an_exception_is_no_death(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "intake.json")
    with pytest.raises(OSError), attempts.in_work(RECORDS):
        raise OSError
    assert Attempts(tmp_path / "intake.json").deaths(RECORDS[0]) == 0


def test_parts_are_bounded_in_bytes_and_keep_the_order() -> None:
    records = [record(offset, size) for offset, size in enumerate((40, 40, 40, 500, 10))]
    parts = list(Attempts(None).parts(records, most_bytes=100))
    assert [[one.offset for one in part] for part in parts] == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"deaths": 5, "in_work": []}', '{"deaths": {"x": null}}'])
def test_a_damaged_file_costs_only_the_memory(tmp_path: Path, content: str) -> None:
    path = tmp_path / "intake.json"
    path.write_text(content)
    assert Attempts(path).deaths(RECORDS[0]) == 0


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with Attempts(tmp_path / "missing" / "intake.json").in_work(RECORDS):
        pass
