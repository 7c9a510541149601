"""The log of a server is rotated while the server writes to it, and is still read to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.serving import server_log
from daemon.serving.server_log import KEPT_LOGS, MAX_LOG_BYTES, ServerLog

BOUND = 20_000
COUNTS = """
import itertools, time
for number in itertools.count():
    print(f"{number:099}", flush=True)
    time.sleep(0.0005)
"""
ON_DEMAND = """
import sys
for line in sys.stdin:
    print(line, end="", flush=True)
    print("written", file=sys.stderr, flush=True)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerLog:
    monkeypatch.setattr(server_log, "MAX_LOG_BYTES", BOUND)
    log = ServerLog(tmp_path / "vllm.log")
    log.begin()
    return log


def test_the_log_tells_how_far_the_start_is(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "logs" / "vllm.log")
    assert log.phase() == "importing modules"
    log.begin()
    log.path.write_text("INFO Initializing a V1 LLM engine\n")
    assert log.phase() == "starting the engine"
    with log.path.open("a") as file:
        file.write("INFO Starting to load model /m\n")
    assert log.phase() == "loading weights"


def test_a_start_is_judged_by_its_own_lines_only(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    log.path.write_text("ValueError: an old failure\nINFO Starting to load model\n")
    log.begin()
    assert (log.phase(), log.failure_reason()) == ("importing modules", "it logged nothing")


def test_the_first_error_is_the_cause(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    log.path.write_text("INFO fine\n(Engine) OSError: no such model\nRuntimeError: Engine core failed\n  bye\n")
    assert log.failure_reason() == "OSError: no such model"
    log.path.write_text(
        "(API pid=7) WARNING 11-24 [utils.py:2] can cause `OSError: [Errno 24]`\nOSError: no such model\n"
    )
    assert log.failure_reason() == "OSError: no such model"
    log.path.write_text("INFO fine\nkilled\n")
    assert log.failure_reason() == "killed"


def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "vllm.log")
    with log.path.open("wb") as file:
        file.truncate(MAX_LOG_BYTES + 1)
    log.begin()
    assert not log.path.exists()
    assert (tmp_path / "vllm.log.1").stat().st_size == MAX_LOG_BYTES + 1


def test_a_server_that_never_stops_writing_loses_next_to_nothing_and_its_logs_stay_bounded(log: ServerLog) -> None:
    rotations = 0
    with _writer(log, COUNTS):
        deadline = time.monotonic() + 60
        while rotations < 2 * KEPT_LOGS and time.monotonic() < deadline:
            before = _inodes(log)
            log.rotate()
            rotations += _inodes(log) != before
            total = sum(path.stat().st_size for path in [*_old(log), log.path])
            assert total <= (2.5 * KEPT_LOGS + 2) * BOUND
    assert rotations == 2 * KEPT_LOGS
    assert len(_old(log)) == KEPT_LOGS
    numbers = [int(line) for path in [*_old(log), log.path] for line in path.read_text().split()]
    assert numbers == sorted(set(numbers))
    steps = [after - before for before, after in pairwise(numbers)]
    assert sum(step > 1 for step in steps) <= KEPT_LOGS


def test_a_server_that_pauses_loses_no_line(log: ServerLog) -> None:
    written = []
    with _writer(log, ON_DEMAND) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        for number in range(60):
            written.append(f"{number:0999}")
            child.stdin.write(f"{written[-1]}\n")
            child.stdin.flush()
            child.stderr.readline()
            log.rotate()
    assert len(_old(log)) == 2
    assert [line for path in [*_old(log), log.path] for line in path.read_text().split()] == written


def test_the_reason_of_a_failure_is_found_across_a_rotation(log: ServerLog) -> None:
    with log.path.open("a") as file:
        file.write("INFO fine\n" * BOUND)
        file.write("(Engine) OSError: the disk is gone\nINFO Star")
        file.flush()
        log.rotate()
        file.write("ting to load model\nRuntimeError: Engine core failed\n")
    assert log.path.stat().st_size < 100
    assert log.failure_reason() == "OSError: the disk is gone"
    assert log.phase() == "loading weights"


def test_an_earlier_servers_lines_stay_out_across_a_rotation(log: ServerLog) -> None:
    log.path.write_text("ValueError: an old failure\n")
    log.begin()
    with log.path.open("a") as file:
        file.write("INFO fine\n" * BOUND)
    log.rotate()
    assert log.failure_reason() == "INFO fine"


def test_a_log_that_the_earlier_daemon_rotated_belongs_to_the_adopted_server(log: ServerLog) -> None:
    log.path.write_text("ValueError: the cause\n" + "INFO fine\n" * 2500)
    log.rotate()
    adopting = ServerLog(log.path)
    adopting.adopt(age_s=60)
    assert adopting.failure_reason() == "ValueError: the cause"
    hour_ago = time.time() - 3600
    os.utime(f"{log.path}.1", (hour_ago, hour_ago))
    adopting = ServerLog(log.path)
    adopting.adopt(age_s=60)
    assert adopting.failure_reason() == "it logged nothing"


def test_a_log_that_cannot_be_copied_goes_on_growing_until_the_next_try(
    log: ServerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    log.path.write_text("x" * (BOUND + 1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "sendfile", full)
        log.rotate()
    log.rotate()
    assert log.path.stat().st_size == BOUND + 1
    assert _old(log) == []
    with log.path.open("a") as file:
        file.write("x" * BOUND)
        file.write("y")
    log.rotate()
    assert log.path.stat().st_size == 0
    assert [path.stat().st_size for path in _old(log)] == [2 * BOUND]
    log.path.write_text("x" * (BOUND + 1))
    log.rotate()
    assert [path.stat().st_size for path in _old(log)] == [2 * BOUND, BOUND + 1]


@contextmanager
def _writer(log: ServerLog, code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that writes to the log like a server: by its own descriptor."""
    with log.path.open("ab") as output:
        command = [sys.executable, "-c", code]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True)
    with child:
        try:
            yield child
        finally:
            child.kill()


def _old(log: ServerLog) -> list[Path]:
    """Oldest first."""
    return sorted(log.path.parent.glob(f"{log.path.name}.*"), reverse=True)


def _inodes(log: ServerLog) -> list[int]:
    return [path.stat().st_ino for path in _old(log)]
