"""What the runners have in common whose trainers work on a cluster, out of the daemon's reach, and outlive it."""

from __future__ import annotations

import hashlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, Self, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict

from daemon.artifacts.files import sha256_file, write_atomically
from daemon.artifacts.run_folder import MANIFEST_FILE
from daemon.errors import RunnerUnavailableError, TrainingError
from daemon.training.job import LOG_FILE, PROGRESS_FILE, STOP_FILE, TrainingJob, run_lock

log = structlog.get_logger(__name__)

END_TIMEOUT_S = 30.0
"""Time for a cluster to end a job that it was told to end."""
LOG_EVERY_S = 5.0
"""Seconds between two copies of a job's log into the run folder."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
Client = TypeVar("Client")
Answer = TypeVar("Answer")


class Note(BaseModel):
    """The latest job of the run, in its folder. Written before it is submitted: no crash loses or doubles it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: int = 0
    name: str = ""
    """The job's on the cluster."""
    log_from: int = 0
    """Size of the run's log when the job was submitted: its own log follows there."""
    open: bool = False
    """False once its end is known."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The note in the file, or that of no job."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()

    def save(self, path: Path) -> Self:
        write_atomically(path, self.model_dump_json().encode())
        return self

    def next(self, job: TrainingJob, *, prefix: str) -> Self:
        """The note of the next job. After the prefix its name follows from the run's dataset and the attempt alone."""
        path, log_file = job.run_folder / MANIFEST_FILE, job.run_folder / LOG_FILE
        dataset = hashlib.sha256(f"{path}:{sha256_file(path)}".encode()).hexdigest()[:12]
        return type(self)(
            attempt=self.attempt + 1,
            name=f"{prefix}-{dataset}-{self.attempt + 1}",
            log_from=log_file.stat().st_size if log_file.exists() else 0,
            open=True,
        )


class RemoteRunner(ABC, Generic[Client]):
    """Starts trainers as jobs of one cluster. Its client raises OSError or RuntimeError if it gets no answer."""

    poll_s = 1.0
    note_file: str
    """Name of the note in the run folder."""

    def __init__(self, *, place: str, connect: Callable[[], Client], unreachable_s: float) -> None:
        """`place` names the cluster in sentences."""
        self._place = place
        self._connect = connect
        self._unreachable_s = unreachable_s
        self._client: Client | None = None
        self._silent_since: float | None = None

    @abstractmethod
    def prefix(self, job: TrainingJob) -> str:
        """How the names of the run's jobs begin."""

    @abstractmethod
    def knows(self, name: str) -> bool:
        """Whether the cluster has a job of this name, at work or ended. Raises as `ask`."""

    @abstractmethod
    def submit(self, job: TrainingJob, name: str) -> None:
        """Raises as `ask`, and TrainingError if the cluster will never take the job."""

    @abstractmethod
    def follow(self, run_folder: Path, note: Note) -> RemoteAttempt:
        """The attempt that a note tells of."""

    def busy(self, run_folder: Path) -> bool:
        if Note.load(run_folder / self.note_file).open:
            return False
        with run_lock(run_folder) as free:
            return not free

    def start(self, job: TrainingJob) -> RemoteAttempt:
        path = job.run_folder / self.note_file
        note = Note.load(path)
        if not note.open:
            note = note.next(job, prefix=self.prefix(job)).save(path)
        attempt = self.follow(job.run_folder, note)
        if self.knows(note.name):
            log.info("training adopted", run=job.run_id, trainer=str(attempt))
            return attempt
        for name in (PROGRESS_FILE, STOP_FILE):
            (job.run_folder / name).unlink(missing_ok=True)
        self.submit(job, note.name)
        return attempt

    def forget(self, run_folder: Path) -> bool:
        note = Note.load(run_folder / self.note_file)
        if note.open:
            self.follow(run_folder, note).end()
        return note.open

    def ask(self, question: Callable[[Client], Answer]) -> Answer:
        """The cluster's answer.

        Raises:
            RunnerUnavailableError: if it gives none.
            TrainingError: if it has given none for `unreachable_s`.
        """
        try:
            if self._client is None:
                self._client = self._connect()
            answer = question(self._client)
        except (OSError, RuntimeError) as exc:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            text = f"{self._place} does not answer as it should: {exc}"
            if now - self._silent_since > self._unreachable_s:
                raise TrainingError(f"{text}; that is so for over {self._unreachable_s:g} s") from exc
            raise RunnerUnavailableError(text) from exc
        self._silent_since = None
        return answer


class RemoteAttempt(ABC):
    """One job on the cluster."""

    end_timeout_s = END_TIMEOUT_S

    def __init__(self, run_folder: Path, note: Note, *, note_file: str, poll_s: float) -> None:
        self.name = note.name
        self.run_folder = run_folder
        self.waits: str | None = None
        self._note = note
        self._note_path = run_folder / note_file
        self._poll_s = poll_s
        self._end: str | None = None
        self._log_at = 0.0

    @abstractmethod
    def look(self) -> None:
        """Ask for the job's state: sets `waits`, calls `copy_log`, and `ends` once it has ended. Raises as `ask`."""

    @abstractmethod
    def read_log(self) -> str:
        """The job's log from its beginning. Raises as `ask`."""

    @abstractmethod
    def cancel(self) -> None:
        """Tell the cluster to end the job. Harmless if it has ended. Raises as `ask`."""

    def ended(self) -> str | None:
        if self._end is None:
            try:
                self.look()
            except RunnerUnavailableError as exc:
                self.waits = str(exc)
        return self._end

    def ends(self, how: str) -> None:
        """Keep how the job ended; the run's next job has another name."""
        self._end = how
        self._note = self._note.model_copy(update={"open": False}).save(self._note_path)

    def copy_log(self, *, now: bool) -> None:
        """Bring the run's log up to the job's, if it is `now` or time: that of an adopted job is written again."""
        if not now and time.monotonic() - self._log_at <= LOG_EVERY_S:
            return
        text = self.read_log()
        with (self.run_folder / LOG_FILE).open("ab") as file:
            file.truncate(self._note.log_from)
            file.write(_COLOURS.sub("", text).encode())
        self._log_at = time.monotonic()

    def resident_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        """A cluster that does not answer leaves the job to the next daemon."""
        if self._end is None:
            with suppress(RunnerUnavailableError, TrainingError):
                self.end()

    def end(self) -> None:
        """End the job and wait for its end. Raises as `RemoteRunner.ask`."""
        if self._end is None:
            self.look()
        if self._end is None:
            self.cancel()
            self.wait_for_end(self.end_timeout_s)

    def wait_for_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.ended() is None and time.monotonic() < deadline:
            time.sleep(self._poll_s / 2)
