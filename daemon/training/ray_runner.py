"""The runner `ray`: the trainer is a job of Ray Jobs on a cluster that sees the folders of the daemon."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from daemon.artifacts.run_folder import JOB_FILE
from daemon.config.training import RayConfig
from daemon.errors import ConfigError, RunnerUnavailableError, TrainingError
from daemon.runtime.child import torch_settings
from daemon.training.job import STOP_FILE, TrainingJob
from daemon.training.process import STOP_GRACE_S
from daemon.training.ray_job import STORAGE
from daemon.training.remote_runner import Note, RemoteAttempt, RemoteRunner

_REQUEST_TIMEOUT_S = 20.0
_ENDS = {
    "SUCCEEDED": "ended without an adapter",
    "STOPPED": "was stopped on the cluster",
    "FAILED": "failed on the cluster",
}
_NOT_FOUND = "status code 404"


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


class RayRunner(RemoteRunner[JobClient]):
    """Starts trainers as jobs of one cluster."""

    note_file = "ray-job.json"

    def __init__(self, config: RayConfig, *, connect: Callable[[str], JobClient] = connect) -> None:
        address = config.address or ""
        super().__init__(
            place=f"the Ray cluster at {address}",
            connect=partial(connect, address),
            unreachable_s=config.unreachable_s,
        )
        self._config = config

    def prefix(self, job: TrainingJob) -> str:
        return f"erratad-{job.name}"

    def follow(self, run_folder: Path, note: Note) -> RayAttempt:
        return RayAttempt(self, run_folder, note)

    def knows(self, name: str) -> bool:
        return self.info(name) is not None

    def info(self, name: str) -> JobInfo | None:
        """What the cluster knows about the job; None if it knows none of this name. Raises as `ask`."""

        def look(client: JobClient) -> JobInfo | None:
            try:
                return client.get_job_info(name)
            except RuntimeError as exc:
                if _NOT_FOUND in str(exc):
                    return None
                raise

        return self.ask(look)

    def submit(self, job: TrainingJob, name: str) -> None:
        settings = self._config.model_dump_json(exclude={"address", "runtime_env", "unreachable_s"})
        entrypoint = ["python", "-m", "daemon.training.ray_job", str(job.run_folder / JOB_FILE), settings]
        given = self._config.runtime_env
        variables = {**torch_settings(job.training.threads), **given.get("env_vars", {})}
        self.ask(
            lambda client: client.submit_job(
                entrypoint=shlex.join(entrypoint),
                submission_id=name,
                runtime_env={**given, "env_vars": variables},
                metadata={"run": str(job.run_id), "adapter": job.name, "run_folder": str(job.run_folder)},
            )
        )


class RayAttempt(RemoteAttempt):
    """One job on the cluster."""

    def __init__(self, runner: RayRunner, run_folder: Path, note: Note) -> None:
        super().__init__(run_folder, note, note_file=runner.note_file, poll_s=runner.poll_s)
        self._runner = runner

    def __str__(self) -> str:
        return f"Ray job {self.name}"

    def look(self) -> None:
        info = self._runner.info(self.name)
        if info is None:
            self.ends("is gone from the cluster, whose head was perhaps restarted,")
            return
        state = str(getattr(info.status, "value", info.status))
        self.waits = f"waits on the Ray cluster: {info.message}" if state == "PENDING" else None
        self.copy_log(now=state in _ENDS)
        if state in _ENDS:
            said = (info.message or "").partition(", last available logs")[0]
            self.ends(f"{_ENDS[state]} ({said})" if said else _ENDS[state])

    def ends(self, how: str) -> None:
        super().ends(how)
        shutil.rmtree(self.run_folder / STORAGE, ignore_errors=True)

    def read_log(self) -> str:
        return self._runner.ask(lambda client: client.get_job_logs(self.name))

    def cancel(self) -> None:
        """Ray sends SIGTERM to the job, and SIGKILL 3 seconds later."""
        self._runner.ask(lambda client: client.stop_job(self.name))

    def stop(self) -> None:
        """Ask the workers by a file, which they look at after each step; then stop the job."""
        if self._end is not None:
            return
        (self.run_folder / STOP_FILE).touch()
        if self.waits is None:
            with suppress(RunnerUnavailableError, TrainingError):
                self.wait_for_end(STOP_GRACE_S)
        super().stop()
