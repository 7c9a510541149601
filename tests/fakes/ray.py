"""Ray's client for jobs as far as it is used, without a cluster. Its answers and errors are those of ray 2.60."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ADDRESS = "http://ray-head:8265"


@dataclass
class Info:
    status: str
    message: str | None = None


@dataclass
class FakeCluster:
    """The client and what it knows."""

    jobs: dict[str, Info] = field(default_factory=dict)
    logs: str = ""
    submitted: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failing: Exception | None = None
    forgets_to_answer: bool = False
    """Takes the next job, but the answer is lost."""

    def connect(self, address: str) -> FakeCluster:
        assert address == ADDRESS
        self._answer()
        return self

    def _answer(self) -> None:
        if self.failing is not None:
            raise self.failing

    def submit_job(self, **options: Any) -> str:
        self._answer()
        name = options["submission_id"]
        if name in self.jobs:
            raise RuntimeError(f"Request failed with status code 500: Job with submission_id {name} already exists.")
        self.jobs[name] = Info("PENDING", "Job has not started yet.")
        self.submitted.append(options)
        if self.forgets_to_answer:
            raise ConnectionError("the connection was reset")
        return str(name)

    def get_job_info(self, job_id: str) -> Info:
        self._answer()
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        assert job_id in self.jobs
        return self.logs

    def stop_job(self, job_id: str) -> bool:
        self._answer()
        self.stopped.append(job_id)
        self.jobs[job_id] = Info("STOPPED")
        return True
