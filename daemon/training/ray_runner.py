"""The runner `ray`: the trainer is a job of Ray Jobs on a cluster that sees the folders of the daemon."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict

from daemon.artifacts.files import sha256_file, write_atomically
from daemon.artifacts.run_folder import JOB_FILE, MANIFEST_FILE
from daemon.config.training import RayConfig
from daemon.errors import ConfigError, RunnerUnavailableError, TrainingError
from daemon.runtime.child import torch_settings
from daemon.training.job import LOG_FILE, PROGRESS_FILE, STOP_FILE, TrainingJob, run_lock
from daemon.training.process import STOP_GRACE_S
from daemon.training.ray_job import STORAGE

log = structlog.get_logger(__name__)

NOTE_FILE = "ray-job.json"
END_TIMEOUT_S = 30.0
"""Ray sends SIGTERM to a job that it shall stop, and SIGKILL 3 seconds later."""
_REQUEST_TIMEOUT_S = 20.0
_LOG_EVERY_S = 5.0
_ENDS = {
    "SUCCEEDED": "ended without an adapter",
    "STOPPED": "was stopped on the cluster",
    "FAILED": "failed on the cluster",
}
_NOT_FOUND = "status code 404"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
Answer = TypeVar("Answer")


class JobInfo(Protocol):
    """What the cluster says about a job."""

    status: Any
    message: str | None


class JobClient(Protocol):
    """The part of `ray.job_submission.JobSubmissionClient` that is used.

    Its methods raise OSError if the cluster does not answer, RuntimeError if it answers with an error.
    """

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str: ...

    def get_job_info(self, job_id: str) -> JobInfo: ...

    def get_job_logs(self, job_id: str) -> str: ...

    def stop_job(self, job_id: str) -> bool: ...


class Note(BaseModel):
    """`ray-job.json`: the latest job of the run. Written before it is submitted: no crash loses or doubles it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: int = 0
    submission_id: str = ""
    log_from: int = 0
    """Size of the run's log when the job was submitted: its own log follows there."""
    open: bool = False
    """False once its end is known."""

    @classmethod
    def load(cls, run_folder: Path) -> Self:
        try:
            return cls.model_validate_json((run_folder / NOTE_FILE).read_bytes())
        except FileNotFoundError:
            return cls()

    def save(self, run_folder: Path) -> Self:
        write_atomically(run_folder / NOTE_FILE, self.model_dump_json().encode())
        return self

    def next(self, job: TrainingJob) -> Self:
        """The note of the next job. Its id follows from the run's dataset and the attempt alone."""
        path, log_file = job.run_folder / MANIFEST_FILE, job.run_folder / LOG_FILE
        dataset = hashlib.sha256(f"{path}:{sha256_file(path)}".encode()).hexdigest()[:12]
        return type(self)(
            attempt=self.attempt + 1,
            submission_id=f"erratad-{job.name}-{dataset}-{self.attempt + 1}",
            log_from=log_file.stat().st_size if log_file.exists() else 0,
            open=True,
        )


def connect(address: str) -> JobClient:
    """A client of the cluster.

    Raises:
        ConfigError: if the extra `ray` is not installed.
        OSError: if the cluster does not answer.
        RuntimeError: if it does not take jobs.
    """
    if find_spec("ray") is None:
        raise ConfigError(MISSING)
    from ray.exceptions import AuthenticationError  # noqa: PLC0415 - takes a second, and only this runner needs it
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    class Client(JobSubmissionClient):  # type: ignore[misc]  # ray is not installed everywhere
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            """Ray's own has no time limit: a head that is cut off would hold the stage."""
            try:
                return super()._do_request(*arguments, timeout=_REQUEST_TIMEOUT_S, **options)
            except AuthenticationError as exc:
                raise PermissionError(str(exc)) from exc

    return Client(address)


MISSING = "training.runner: ray is not installed here; install erratad[ray], or use runner 'local'"


class RayRunner:
    """Starts trainers as jobs of one cluster."""

    poll_s = 1.0

    def __init__(self, config: RayConfig, *, connect: Callable[[str], JobClient] = connect) -> None:
        self._config = config
        self._address = config.address or ""
        self._connect = connect
        self._client: JobClient | None = None
        self._silent_since: float | None = None

    def busy(self, run_folder: Path) -> bool:
        if Note.load(run_folder).open:
            return False
        with run_lock(run_folder) as free:
            return not free

    def start(self, job: TrainingJob) -> RayAttempt:
        note = Note.load(job.run_folder)
        if not note.open:
            note = note.next(job).save(job.run_folder)
        attempt = RayAttempt(self, job.run_folder, note)
        if self.info(note.submission_id) is not None:
            log.info("training adopted", run=job.run_id, trainer=str(attempt))
            return attempt
        for name in (PROGRESS_FILE, STOP_FILE):
            (job.run_folder / name).unlink(missing_ok=True)
        self.ask(lambda client: self._submit(client, job, note))
        return attempt

    def forget(self, run_folder: Path) -> bool:
        note = Note.load(run_folder)
        if note.open:
            RayAttempt(self, run_folder, note).end()
        return note.open

    def info(self, submission_id: str) -> JobInfo | None:
        """What the cluster knows about the job; None if it knows none of this id. Raises as `ask`."""

        def look(client: JobClient) -> JobInfo | None:
            try:
                return client.get_job_info(submission_id)
            except RuntimeError as exc:
                if _NOT_FOUND in str(exc):
                    return None
                raise

        return self.ask(look)

    def ask(self, question: Callable[[JobClient], Answer]) -> Answer:
        """The cluster's answer.

        Raises:
            RunnerUnavailableError: if it gives none.
            TrainingError: if it has given none for `unreachable_s`.
        """
        try:
            if self._client is None:
                self._client = self._connect(self._address)
            answer = question(self._client)
        except (OSError, RuntimeError) as exc:
            now = time.monotonic()
            self._silent_since = self._silent_since or now
            text = f"the Ray cluster at {self._address} does not answer as it should: {exc}"
            if now - self._silent_since > self._config.unreachable_s:
                raise TrainingError(f"{text}; that is so for over {self._config.unreachable_s:g} s") from exc
            raise RunnerUnavailableError(text) from exc
        self._silent_since = None
        return answer

    def _submit(self, client: JobClient, job: TrainingJob, note: Note) -> None:
        settings = self._config.model_dump_json(exclude={"address", "runtime_env", "unreachable_s"})
        given = self._config.runtime_env
        variables = {**torch_settings(job.training.threads), **given.get("env_vars", {})}
        client.submit_job(
            entrypoint=shlex.join(
                ["python", "-m", "daemon.training.ray_job", str(job.run_folder / JOB_FILE), settings]
            ),
            submission_id=note.submission_id,
            runtime_env={**given, "env_vars": variables},
            metadata={"run": str(job.run_id), "adapter": job.name, "run_folder": str(job.run_folder)},
        )


class RayAttempt:
    """One job on the cluster."""

    def __init__(self, runner: RayRunner, run_folder: Path, note: Note) -> None:
        self._runner = runner
        self._run_folder = run_folder
        self._note = note
        self._end: str | None = None
        self._log_at = 0.0
        self.waits: str | None = None

    def __str__(self) -> str:
        return f"Ray job {self._note.submission_id}"

    def ended(self) -> str | None:
        if self._end is None:
            try:
                self._look()
            except RunnerUnavailableError as exc:
                self.waits = str(exc)
        return self._end

    def _look(self) -> None:
        info = self._runner.info(self._note.submission_id)
        if info is None:
            self._ends("is gone from the cluster, whose head was perhaps restarted,")
            return
        state = str(getattr(info.status, "value", info.status))
        self.waits = f"waits on the Ray cluster: {info.message}" if state == "PENDING" else None
        if state in _ENDS or time.monotonic() - self._log_at > _LOG_EVERY_S:
            self._copy_log()
        if state in _ENDS:
            said = (info.message or "").partition(", last available logs")[0]
            self._ends(f"{_ENDS[state]} ({said})" if said else _ENDS[state])

    def _ends(self, how: str) -> None:
        self._end = how
        self._note = self._note.model_copy(update={"open": False}).save(self._run_folder)
        shutil.rmtree(self._run_folder / STORAGE, ignore_errors=True)

    def _copy_log(self) -> None:
        """Bring the run's log up to the job's: an adopted job's is written again from its beginning."""
        text = self._runner.ask(lambda client: client.get_job_logs(self._note.submission_id))
        with (self._run_folder / LOG_FILE).open("ab") as file:
            file.truncate(self._note.log_from)
            file.write(_COLOURS.sub("", text).encode())
        self._log_at = time.monotonic()

    def resident_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        """Ask the workers by a file, which they look at after each step; then stop the job.

        A cluster that does not answer leaves the job to the next daemon.
        """
        if self._end is not None:
            return
        (self._run_folder / STOP_FILE).touch()
        with suppress(RunnerUnavailableError, TrainingError):
            if self.waits is None:
                self._wait_for_end(STOP_GRACE_S)
            self.end()

    def end(self) -> None:
        """Stop the job now. Raises as `RayRunner.ask`."""
        if self._end is None:
            self._look()
        if self._end is None:
            self._runner.ask(lambda client: client.stop_job(self._note.submission_id))
            self._wait_for_end(END_TIMEOUT_S)

    def _wait_for_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.ended() is None and time.monotonic() < deadline:
            time.sleep(self._runner.poll_s / 2)
