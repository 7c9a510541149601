"""Where a daemon answers, as it writes it down."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.runtime.address import FILE, Address, announce, announced

HERE = Address(url="http://127.0.0.1:8077", owner="machine-1")


def test_the_address_that_was_written_last_is_read_by_the_daemons_user_alone(tmp_path: Path) -> None:
    announce(tmp_path, Address(url="http://127.0.0.1:1", owner="machine-0"))
    announce(tmp_path, HERE)
    assert announced(tmp_path) == HERE
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_daemon_that_asks_for_tokens_removes_what_another_start_has_written(tmp_path: Path) -> None:
    announce(tmp_path, HERE)
    announce(tmp_path, None)
    announce(tmp_path, None)
    assert announced(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"url": "http://x"}', b"\xff"])
def test_a_file_that_is_something_else_is_no_address(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert announced(tmp_path) is None
