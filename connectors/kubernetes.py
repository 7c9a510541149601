"""Client of one namespace of a Kubernetes cluster: jobs (batch/v1), their pods, logs and warnings.

It needs the extra `kubernetes`. Every call is one request with a time limit and is not repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, V1ContainerStatus, V1Job, V1Pod
    from kubernetes.client.exceptions import ApiException

JOB_LABEL = "batch.kubernetes.io/job-name"
"""The job controller gives it to each pod of a job, with the job's name."""
CONTAINER = "trainer"
"""The container of each pod that does the job's work. A cluster may put others beside it."""
LOG_LINES = 2000
"""Of the end of a pod's log."""
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT_S = (5.0, 20.0)
"""To connect, and between two parts of an answer."""
_NEVER = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_COMES_UP = frozenset({"ContainerCreating", "PodInitializing"})
"""A container that waits so is on its way, unless a warning says more."""
Answer = TypeVar("Answer")


class KubernetesError(OSError):
    """No API server answers, or it refuses these credentials, or has a fault. The request may succeed later."""


class JobRefusedError(Exception):
    """The API server will never take this job. The text has its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the cluster says about a job."""

    uid: str
    is_being_deleted: bool
    is_suspended: bool
    """It gets no pod for now: Kueue, or a person, holds it back."""
    succeeded: bool
    failure: str | None
    """Reason and message of its failure; None if it has not failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What the cluster says about a pod and its container."""

    name: str
    uid: str
    waits: str | None
    """Reason and message why it does not run yet; None if it runs or has run. Empty if none is given."""
    end: str | None
    """How it ended, such as "OOMKilled, exit code 137"; None if it has not."""


class Cluster:
    """The jobs of one namespace.

    Every method raises KubernetesError.
    """

    def __init__(self, api: ApiClient, namespace: str) -> None:
        from kubernetes.client import BatchV1Api, CoreV1Api  # noqa: PLC0415 - takes half a second

        self._batch = BatchV1Api(api)
        self._core = CoreV1Api(api)
        self.namespace = namespace
        self.address = api.configuration.host

    @classmethod
    def connect(cls, *, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Cluster:
        """In a pod by its service account, else by a kubeconfig (None: KUBECONFIG, or that of the user).

        Raises:
            KubernetesError: if there are no credentials. No request is made.
        """
        from kubernetes import config  # noqa: PLC0415
        from kubernetes.client import ApiClient, Configuration  # noqa: PLC0415

        settings = Configuration()
        settings.retries = False
        try:
            if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
                given = _NAMESPACE_FILE.read_text().strip()
            else:
                file = None if kubeconfig is None else str(kubeconfig)
                config.load_kube_config(file, context, settings, persist_config=False)
                contexts, current = config.list_kube_config_contexts(file)
                [chosen] = [each for each in contexts if each["name"] == (context or current["name"])]
                given = chosen["context"].get("namespace", "default")
        except config.ConfigException as exc:
            raise KubernetesError(f"no credentials of a cluster: {exc}") from exc
        return cls(ApiClient(settings), namespace or given)

    def job(self, name: str) -> Job | None:
        """None if the cluster has no job of this name."""
        try:
            return _job(self._ask(lambda: self._batch.read_namespaced_job(name, self.namespace, **_LIMIT)))
        except _NotFoundError:
            return None

    def create(self, manifest: Mapping[str, Any]) -> None:
        """Create the job, unless there is one of its name.

        Raises:
            JobRefusedError: if no repetition would help.
        """
        from kubernetes.client import V1Job  # noqa: PLC0415

        try:
            body = V1Job.from_dict(dict(manifest))
        except ValueError as exc:
            raise JobRefusedError(str(exc)) from exc
        try:
            self._ask(lambda: self._batch.create_namespaced_job(self.namespace, body, **_LIMIT))
        except _ExistsError:
            return
        except _InvalidError as exc:
            raise JobRefusedError(str(exc)) from exc

    def delete(self, name: str) -> None:
        """Delete the job; it is gone once its pods have ended. Harmless if there is none."""
        from kubernetes.client import V1DeleteOptions  # noqa: PLC0415

        body = V1DeleteOptions(propagation_policy="Foreground")
        try:
            self._ask(lambda: self._batch.delete_namespaced_job(name, self.namespace, body=body, **_LIMIT))
        except _NotFoundError:
            return

    def pods(self, name: str) -> list[Pod]:
        """The pods of the job, oldest first."""
        selector = f"{JOB_LABEL}={name}"
        listed = self._ask(
            lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_LIMIT)
        ).items
        return [_pod(pod) for pod in sorted(listed, key=lambda pod: pod.metadata.creation_timestamp)]

    def log(self, pod: str) -> str:
        """The end of the pod's log; empty if the pod has none, or no longer."""
        try:
            answer = self._ask(
                lambda: self._core.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    container=CONTAINER,
                    tail_lines=LOG_LINES,
                    _preload_content=False,
                    **_LIMIT,
                )
            )
        except (_NotFoundError, _InvalidError):  # 400: no container was started
            return ""
        return str(answer.data.decode(errors="replace"))

    def warning(self, uid: str) -> str | None:
        """The latest warning about the object, such as why its volume cannot be mounted; None if there is none."""
        selector = f"involvedObject.uid={uid},type=Warning"
        events = self._ask(
            lambda: self._core.list_namespaced_event(self.namespace, field_selector=selector, **_LIMIT)
        ).items
        if not events:
            return None
        latest = max(
            events, key=lambda event: event.last_timestamp or event.event_time or event.metadata.creation_timestamp
        )
        return _text(latest.reason, latest.message)

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        """Raises KubernetesError, and its kinds _NotFoundError, _ExistsError and _InvalidError."""
        from kubernetes.client.exceptions import ApiException, OpenApiException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        try:
            return request()
        except ApiException as exc:
            raise _error(exc) from exc
        except (OpenApiException, HTTPError, ValueError) as exc:  # ValueError: no answer of an API server
            raise KubernetesError(str(exc)) from exc


class _NotFoundError(KubernetesError):
    """The API server has no such thing."""


class _ExistsError(KubernetesError):
    """The API server has a thing of this name."""


class _InvalidError(KubernetesError):
    """The API server will never take this request."""


_LIMIT: dict[str, Any] = {"_request_timeout": _TIMEOUT_S}


def _error(exc: ApiException) -> KubernetesError:
    """The error for an answer that is none of success."""
    try:
        status = json.loads(exc.body or "")
        reason, said = status.get("reason"), status["message"]
    except (ValueError, KeyError, AttributeError, TypeError):
        reason, said = None, f"status {exc.status} {exc.reason}"
    if exc.status == HTTPStatus.NOT_FOUND and reason == "NotFound":
        return _NotFoundError(said)
    if exc.status == HTTPStatus.CONFLICT and reason == "AlreadyExists":
        return _ExistsError(said)
    return _InvalidError(said) if exc.status in _NEVER else KubernetesError(said)


def _text(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)


def _job(job: V1Job) -> Job:
    conditions = {each.type: each for each in job.status.conditions or [] if each.status == "True"}
    failed = conditions.get("Failed")
    return Job(
        uid=job.metadata.uid,
        is_being_deleted=job.metadata.deletion_timestamp is not None,
        is_suspended=bool(job.spec.suspend),
        succeeded="Complete" in conditions,
        failure=None if failed is None else _text(failed.reason, failed.message),
    )


def _pod(pod: V1Pod) -> Pod:
    status = pod.status
    container = next((each for each in status.container_statuses or [] if each.name == CONTAINER), None)
    return Pod(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        waits=_waits(pod, container) if status.phase == "Pending" else None,
        end=_end(pod, container) if status.phase in {"Succeeded", "Failed"} else None,
    )


def _waits(pod: V1Pod, container: V1ContainerStatus | None) -> str:
    if container is not None and container.state.waiting is not None:
        waiting = container.state.waiting
        return "" if waiting.reason in _COMES_UP else _text(waiting.reason, waiting.message)
    unmet = [each for each in pod.status.conditions or [] if (each.type, each.status) == ("PodScheduled", "False")]
    return _text(unmet[0].reason, unmet[0].message) if unmet else ""


def _end(pod: V1Pod, container: V1ContainerStatus | None) -> str:
    """Why the pod was taken away, or else how its container ended."""
    taken = [each for each in pod.status.conditions or [] if (each.type, each.status) == ("DisruptionTarget", "True")]
    ended = None if container is None else container.state.terminated
    said = [_text(each.reason, each.message) for each in taken] or [_text(pod.status.reason, pod.status.message)]
    if ended is not None:
        said += [ended.reason or "", f"exit code {ended.exit_code}"]
    return ", ".join(part for part in said if part)
