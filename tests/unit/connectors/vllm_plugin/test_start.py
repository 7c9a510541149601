"""The fork of the engine on a CPU: its conditions, and the descriptors that it must close."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.vllm_plugin.start import _close_listener, _port, forks, hiding


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


def test_what_the_server_hides_is_hidden_in_its_children_too(tmp_path: Path) -> None:
    (tmp_path / "colorsys_extra.py").touch()
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.own = 'kept'\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import sys, importlib.util as u; print(u.find_spec('colorsys_extra') is None, sys.own)"
    seen = []
    for hidden in ([], ["colorsys_extra"]):
        environment |= hiding(hidden, environment)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        seen.append(done.stdout)
    assert seen == ["False kept\n", "True kept\n"]


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
