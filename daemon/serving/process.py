"""One vLLM server process: started so that it is never lost, recognised by a later daemon, ended with all its children.

The server outlives a daemon that is killed. It takes most of a minute to start, backends depend on it and not on the
daemon, and a daemon that crashes or is deployed anew must not take their answers away: the next daemon adopts the
running server. What makes that safe:

- the record (process id, start time, boot id, port, token) is on disk before the server's code runs: the child waits at
  a gate, a `read` from a pipe, and ends by itself if the daemon dies before it opens the gate;
- a process is the recorded one only if boot id and start time agree, so a reused process id is never adopted or killed;
- the server is a session of its own. Linux gives a session's number to no new process while a member lives, so the
  engine processes of a server whose front end is gone are still found, and ended before the port is used again.

An orderly stop of the daemon ends the server. A supervisor that kills whole control groups (systemd's default) ends it
with the daemon; with ``KillMode=process`` it is adopted. Linux only: it reads /proc.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from daemon.errors import ServingError
from daemon.serving.command import Command

_GATE = 'read -r _ && exec "$@" </dev/null'
_PROC = Path("/proc")
KILL_TIMEOUT_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """A started server, as it is kept (mode 0600) in the data directory.

    `started` is in clock ticks since boot. `admin_token` is None where the configuration names the token.
    """

    pid: int
    started: int
    boot_id: str
    port: int
    admin_token: str | None
    fingerprint: str

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> ServerRecord | None:
        """None when there is none, or when it is of another version or another boot: nothing of it can still run."""
        try:
            record = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if record.boot_id == _boot_id() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stat:
    state: str
    session: int
    started: int

    @property
    def runs(self) -> bool:
        return self.state not in {"Z", "X"}


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], session=int(fields[3]), started=int(fields[19]))


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class ServerProcess:
    """A server that this daemon started, or adopted from an earlier one (then `popen` is None)."""

    def __init__(self, record: ServerRecord, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.record = record
        self._popen = popen

    @property
    def adopted(self) -> bool:
        return self._popen is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and always for an adopted server: only a parent learns the code."""
        return None if self._popen is None else self._popen.poll()

    def alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        stat = _stat(self.record.pid)
        return stat is not None and stat.runs and stat.started == self.record.started

    def age_s(self) -> float:
        """Seconds since the process was created."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.record.started / os.sysconf("SC_CLK_TCK")

    def end(self, *, grace_s: float) -> None:
        """Ask the server to stop, and kill what is left of its session after `grace_s`.

        Raises:
            ServingError: when a process survives even that.
        """
        if self.alive():
            os.kill(self.record.pid, signal.SIGTERM)
            _wait_until(lambda: not self.alive(), grace_s)
        if not _wait_until(self._killed, KILL_TIMEOUT_S):
            raise ServingError(
                f"processes {self._members()} of the vLLM server survive SIGKILL; look at their state with ps"
            )

    def _killed(self) -> bool:
        members = self._members()
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not members and not self.alive()

    def _members(self) -> list[int]:
        leader = _stat(self.record.pid)
        if leader is not None and leader.started != self.record.started:
            return []
        pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
        stats = ((pid, _stat(pid)) for pid in pids)
        return [pid for pid, stat in stats if stat is not None and stat.runs and stat.session == self.record.pid]


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def start(
    command: Command, *, record_path: Path, log_path: Path, port: int, admin_token: str | None, fingerprint: str
) -> ServerProcess:
    """Start a server in a session of its own; its output is appended to `log_path`."""
    with log_path.open("ab") as log:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "erratad-vllm", *command.argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
    stat = _stat(popen.pid)
    if stat is None or popen.stdin is None:
        raise ServingError("the vLLM server cannot be watched: /proc shows no process; erratad needs Linux with /proc")
    record = ServerRecord(
        pid=popen.pid,
        started=stat.started,
        boot_id=_boot_id(),
        port=port,
        admin_token=admin_token,
        fingerprint=fingerprint,
    )
    record.write(record_path)
    with contextlib.suppress(BrokenPipeError), popen.stdin as gate:
        gate.write(b"go\n")
    return ServerProcess(record, popen)


def end_left_over(data_dir: Path, *, grace_s: float = 20.0) -> bool:
    """End the server that a killed daemon left running in this data directory; False when there is none."""
    path = record_path(data_dir)
    record = ServerRecord.read(path)
    if record is None:
        return False
    ServerProcess(record).end(grace_s=grace_s)
    path.unlink(missing_ok=True)
    return True


def record_path(data_dir: Path) -> Path:
    return data_dir / "vllm.json"


def lock(data_dir: Path) -> int | None:
    """A descriptor that holds the data directory's server for this process; None while another process holds it."""
    descriptor = os.open(data_dir / "vllm.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
