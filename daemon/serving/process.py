"""Starts, adopts and ends one vLLM server process with all its children.

The server outlives a daemon that is killed, and the next daemon adopts it. Backends depend on the server, not on the
daemon: a crash or an update of the daemon must not interrupt their answers, and a start takes most of a minute. This is
safe because:

- The record (process id, start time, boot id, port, token) is on disk before the server's code runs. The child waits at
  a gate, a `read` from a pipe, and exits if the daemon dies before it opens the gate.
- A process matches the record only if boot id and start time are equal. A reused process id is never adopted or killed.
- The server has its own session. Linux does not reuse a session id while a member lives. So engine processes without
  their front end are still found, and ended before the port is used again.

An orderly stop of the daemon ends the server. A supervisor that kills whole control groups (systemd's default) ends it
with the daemon; with ``KillMode=process`` it survives and is adopted. Linux only, because of boot id and sessions.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from daemon.errors import ServingError
from daemon.serving.command import Command

_GATE = 'read -r _ && exec "$@" </dev/null'
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KILL_TIMEOUT_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """A started server; stored in the data directory with mode 0600.

    `started` is in clock ticks since boot. `admin_token` is None if the configuration names the token.
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
        """The record, or None if it is missing, of another version or of an earlier boot: its server is gone then."""
        try:
            record = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if record.boot_id == _boot_id() else None


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()


def _process(pid: int) -> psutil.Process | None:
    """The process with this id, or None. Two results are equal only if their start times are equal too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None


def _started(process: psutil.Process) -> int:
    """Start time in clock ticks since boot. psutil's seconds since 1970 change when the clock is set."""
    return round((process.create_time() - psutil.boot_time()) * _TICKS_PER_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


class ServerProcess:
    """A server that this daemon started, or adopted from an earlier daemon (then `popen` is None)."""

    def __init__(self, record: ServerRecord, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.record = record
        self._popen = popen
        found = _process(record.pid)
        self._leader = found if found is not None and _started(found) == record.started else None

    @property
    def adopted(self) -> bool:
        return self._popen is None

    @property
    def exit_code(self) -> int | None:
        """None while the server runs, and always for an adopted server: only a parent gets the code."""
        return None if self._popen is None else self._popen.poll()

    def alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        return self._leader is not None and _runs(self._leader)

    def age_s(self) -> float:
        """Seconds since the process was created."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.record.started / _TICKS_PER_S

    def end(self, *, grace_s: float) -> None:
        """Send SIGTERM to the server, and after `grace_s` SIGKILL to all processes of its session.

        Raises:
            ServingError: when a process survives SIGKILL.
        """
        if self._leader is not None and self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._leader.terminate()
            _wait_until(lambda: not self.alive(), grace_s)
        if not _wait_until(self._killed, KILL_TIMEOUT_S):
            pids = [member.pid for member in self._members()]
            raise ServingError(f"processes {pids} of the vLLM server survive SIGKILL; look at their state with ps")

    def _killed(self) -> bool:
        members = self._members()
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        return not members and not self.alive()

    def _members(self) -> list[psutil.Process]:
        holder = _process(self.record.pid)
        if holder is not None and holder != self._leader:
            return []
        # not `process_iter`: its cache would miss a member with a reused process id
        found = (_process(pid) for pid in psutil.pids() if _session(pid) == self.record.pid)
        return [process for process in found if process is not None and _runs(process)]


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def start_server(
    command: Command, *, record_path: Path, log_path: Path, port: int, admin_token: str | None, fingerprint: str
) -> ServerProcess:
    """Start a server in a new session. Its output is appended to `log_path`."""
    with log_path.open("ab") as log:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "erratad-vllm", *command.argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
    process = _process(popen.pid)
    if process is None or popen.stdin is None:
        raise ServingError("the vLLM server cannot be watched: /proc shows no process; erratad needs Linux with /proc")
    record = ServerRecord(
        pid=popen.pid,
        started=_started(process),
        boot_id=_boot_id(),
        port=port,
        admin_token=admin_token,
        fingerprint=fingerprint,
    )
    record.write(record_path)  # before the gate opens: a daemon killed in between leaves no unrecorded server
    with contextlib.suppress(BrokenPipeError), popen.stdin as gate:
        gate.write(b"go\n")
    return ServerProcess(record, popen)


def end_left_over(data_dir: Path, *, grace_s: float = 20.0) -> bool:
    """End the server that a killed daemon left in this data directory. False if there is no record of one."""
    path = record_path(data_dir)
    record = ServerRecord.read(path)
    if record is None:
        return False
    ServerProcess(record).end(grace_s=grace_s)
    path.unlink(missing_ok=True)
    return True


def record_path(data_dir: Path) -> Path:
    return data_dir / "vllm.json"


def lock_path(data_dir: Path) -> Path:
    """Lock file of the daemon that manages the server of the data directory."""
    return data_dir / "vllm.lock"
