"""Parts that end together, and one process per data directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.errors import ConfigError
from daemon.runtime.supervise import run_together, sole_owner, stop_signals


def test_a_signal_amid_whatever_the_main_thread_does_asks_for_a_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    with stop_signals(stop, lambda: None):
        with stop._cond:  # type: ignore[attr-defined]  # like a thread inside `set` or `wait`
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)


def test_a_part_that_fails_stops_the_others_and_is_no_orderly_stop() -> None:
    stop, stopped = threading.Event(), threading.Event()

    def fails() -> None:
        raise ZeroDivisionError

    assert run_together({"good": lambda: _until(stop), "bad": fails}, stop, on_stop=stopped.set) is False
    assert stop.is_set()
    assert stopped.is_set()


def test_a_part_that_just_returns_is_a_fault_too() -> None:
    stop = threading.Event()
    assert run_together({"good": lambda: _until(stop), "gone": lambda: None}, stop, on_stop=lambda: None) is False


def test_a_stop_that_was_asked_for_is_orderly() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert run_together({"a": lambda: _until(stop), "b": lambda: _until(stop)}, stop, on_stop=lambda: None) is True


def test_a_failure_during_the_stop_is_not_hidden() -> None:
    stop = threading.Event()

    def fails_late() -> None:
        _until(stop)
        raise ZeroDivisionError

    threading.Timer(0.1, stop.set).start()
    assert run_together({"late": fails_late}, stop, on_stop=lambda: None) is False


def test_a_part_that_cannot_bind_its_port_ends_the_process_with_a_failure() -> None:
    stop = threading.Event()

    def exits() -> None:
        raise SystemExit(1)  # what uvicorn does when the port is taken

    assert run_together({"http": exits, "good": lambda: _until(stop)}, stop, on_stop=lambda: None) is False


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    first = sole_owner(tmp_path / "var")
    with first, pytest.raises(ConfigError, match="another erratad runs"), sole_owner(tmp_path / "var"):
        pass
    with sole_owner(tmp_path / "var"):
        pass


def test_an_owner_that_is_killed_leaves_the_data_directory_to_the_next_one_at_once(tmp_path: Path) -> None:
    owner = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from daemon.runtime.supervise import sole_owner\n"
        "with sole_owner(Path(sys.argv[1])):\n"
        "    print('owns', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", owner, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "owns\n"
            with pytest.raises(ConfigError, match="another erratad runs"), sole_owner(tmp_path):
                pass
        finally:
            process.kill()
    with sole_owner(tmp_path):
        pass


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="data_dir"), sole_owner(tmp_path / "file" / "var"):
        pass


def _until(stop: threading.Event) -> None:
    stop.wait(10)
