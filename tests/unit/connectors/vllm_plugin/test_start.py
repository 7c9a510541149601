"""The fork of the engine on a CPU: its conditions, and the descriptors that it must close."""

from __future__ import annotations

import os
import socket

import pytest

from connectors.vllm_plugin.start import _close_listener, _port, forks


@pytest.mark.parametrize(
    ("threads", "multiprocessing", "expected"),
    [("1", "0", True), ("2", "0", False), ("1", "1", False), (None, "0", False), ("1", None, False)],
)
def test_the_engine_is_forked_only_where_no_thread_can_be_lost(
    threads: str | None, multiprocessing: str | None, expected: bool
) -> None:
    environ = {"OMP_NUM_THREADS": threads, "VLLM_ENABLE_V1_MULTIPROCESSING": multiprocessing}
    assert forks({name: value for name, value in environ.items() if value is not None}) is expected


@pytest.mark.parametrize(
    ("argv", "port"), [(["--port", "8123", "--model", "m"], 8123), (["--port=8123"], 8123), (["--model", "m"], 8000)]
)
def test_the_port_is_read_as_vllm_reads_it(argv: list[str], port: int) -> None:
    assert _port(["vllm_start.py", *argv]) == port


def test_an_engine_lets_go_of_its_servers_port_and_of_nothing_else() -> None:
    listener, other = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    address, kept = listener.getsockname(), other.fileno()
    engine = os.fork()
    if engine == 0:
        _close_listener(address[1])
        os._exit(0 if _is_open(kept) and not _is_open(listener.fileno()) else 1)
    status = os.waitpid(engine, 0)[1]
    still_open = _is_open(listener.fileno())
    listener.close()
    other.close()
    assert os.waitstatus_to_exitcode(status) == 0
    assert still_open


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
