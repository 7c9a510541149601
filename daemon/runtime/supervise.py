"""Runs the parts of a process: threads that end together, stop signals, one process per data directory."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import structlog

from daemon.errors import ConfigError
from daemon.runtime.lock import try_lock

log = structlog.get_logger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ASKED_TO = "a signal"


def run_together(
    parts: Mapping[str, Callable[[], None]], stop: threading.Event, *, on_stop: Callable[[], None]
) -> bool:
    """Run each part in a thread until `stop`. If one part ends by itself, all are stopped.

    Returns True after an orderly stop, False if a part ended or failed.
    """
    ended: list[str] = []

    def note(future: Future[None]) -> None:
        if not stop.is_set():
            ended.append(names[future])
            stop.set()

    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        names = {pool.submit(part): name for name, part in parts.items()}
        for future in names:
            future.add_done_callback(note)
        stop.wait()
        because = ", ".join(ended) or ASKED_TO
        on_stop()
        log.info("stopping", because=because)
        wait(names)
    failures = {name: future.exception() for future, name in names.items() if future.exception() is not None}
    for name, error in failures.items():
        log.error("part_failed", part=name, exc_info=error)
    return because == ASKED_TO and not failures


@contextmanager
def stop_signals(stop: threading.Event, end_at_once: Callable[[], object]) -> Iterator[None]:
    """The first SIGTERM or SIGINT requests an orderly stop; the second calls `end_at_once` and ends the process.

    A thread handles them. A signal handler interrupts the main thread, and would deadlock if that is inside
    `stop.set()` too. Putting into a SimpleQueue is safe in a handler.
    """
    received: SimpleQueue[int | None] = SimpleQueue()

    def act() -> None:
        while (number := received.get()) is not None:
            if stop.is_set():
                end_at_once()
                os._exit(128 + number)
            stop.set()

    acting = threading.Thread(target=act, name="stop-signals", daemon=True)
    acting.start()
    before = {number: signal.signal(number, lambda number, _: received.put(number)) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        received.put(None)
        acting.join()


@contextmanager
def sole_owner(data_dir: Path) -> Iterator[None]:
    """Lock the data directory for this process.

    Raises:
        ConfigError: when another daemon holds it, or it is not writable.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = try_lock(data_dir / "erratad.lock")
    except OSError as exc:
        raise ConfigError(f"data_dir: {data_dir} cannot be written: {exc.strerror}") from exc
    if lock is None:
        raise ConfigError(f"data_dir: another erratad runs on {data_dir}; stop it, or give this one its own directory")
    with lock:
        yield
