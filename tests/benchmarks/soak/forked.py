"""Trainers forked from one process that has torch in memory: they start in a tenth of a second in place of seven.

`training.launcher` names this module, which then stands between daemon and trainer: SIGTERM and death reach the
trainer, its exit code comes back. What the trainer does is the same; only the import of torch is not repeated.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from daemon.runtime.child import die_with_the_daemon, torch_settings

MAX_BYTES = 1 << 20
START_S = 120
IN_MEMORY = ("daemon.training.trainer", "daemon.training.lora", "daemon.chat.tokenizer", "peft", "safetensors.torch")
STOP = b"T"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainers:
    launcher: list[str]
    """For `training.launcher`."""
    pid: int
    """The process that forks them, and waits for them."""


@contextmanager
def trainers(address: Path) -> Iterator[Trainers]:
    """A process that forks trainers while the block runs."""
    module = [sys.executable, "-m", "tests.benchmarks.soak.forked"]
    server = subprocess.Popen([*module, "serve", str(address)], env={**os.environ, **torch_settings(1)})
    try:
        deadline = time.monotonic() + START_S
        while not address.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the process that forks trainers does not start")
            time.sleep(0.1)
        yield Trainers(launcher=[*module, str(address)], pid=server.pid)
    finally:
        server.kill()
        server.wait()


def serve(address: Path) -> NoReturn:
    die_with_the_daemon()  # or rather with the bench
    for module in IN_MEMORY:
        importlib.import_module(module)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _keep(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass


def _keep(connection: socket.socket) -> NoReturn:
    """Fork the trainer, and end it when the launcher is told to or ends itself."""
    request, descriptors, _, _ = socket.recv_fds(connection, MAX_BYTES, 1)
    trainer = os.fork()
    if trainer == 0:
        connection.close()
        _train(json.loads(request), output=descriptors[0])
    ended = os.pidfd_open(trainer)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            _, status = os.waitpid(trainer, 0)
            with suppress(OSError):  # the launcher was killed
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        os.kill(trainer, signal.SIGTERM if connection.recv(1) == STOP else signal.SIGKILL)


def _train(request: dict[str, dict[str, str] | list[str]], *, output: int) -> NoReturn:
    from daemon.training import trainer  # noqa: PLC0415 - loaded already, and not in the launcher

    for standard in (1, 2):
        os.dup2(output, standard)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[1:] = request["arguments"]
    code = 1
    try:
        code = trainer.main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(address: str, command: Sequence[str]) -> NoReturn:
    """Have `command`'s job trained, as if this process did it."""
    die_with_the_daemon()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        signal.signal(signal.SIGTERM, lambda *_: connection.sendall(STOP))
        request = {"environment": dict(os.environ), "arguments": list(command[-1:])}
        socket.send_fds(connection, [json.dumps(request).encode()], [1])
        code = int(connection.recv(16) or "1")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    launch(sys.argv[1], sys.argv[2:])
