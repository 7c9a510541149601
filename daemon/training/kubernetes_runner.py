"""The runner `kubernetes`: the trainer is the pod of a job (batch/v1) that sees the folders of the daemon.

A pod that the cluster takes away (preemption, eviction, drain) is replaced by the cluster and resumes from the
checkpoint. A trainer that fails ends its job; the daemon then starts the next one, which resumes as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from connectors.kubernetes import CONTAINER, Cluster, Job, JobRefusedError, Pod
from daemon.artifacts.run_folder import JOB_FILE
from daemon.config.training import ClaimConfig, KubernetesConfig
from daemon.errors import ConfigError, TrainingError
from daemon.runtime.child import torch_settings
from daemon.training.job import EXIT_BUSY, EXIT_STOPPED, TrainingJob
from daemon.training.process import STOP_GRACE_S
from daemon.training.remote_runner import END_TIMEOUT_S, Note, RemoteAttempt, RemoteRunner

MISSING = "training.runner: kubernetes is not installed here; install erratad[kubernetes], or use runner 'local'"
DELETED, GONE = "was deleted in the cluster", "is gone from the cluster, deleted or past its TTL,"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SCRATCH: dict[str, tuple[str, dict[str, str]]] = {"tmp": ("/tmp", {}), "shm": ("/dev/shm", {"medium": "Memory"})}  # noqa: S108 - the pod's own
"""Folders that the pod may write besides its claims: path and kind of the volume."""


def connect(config: KubernetesConfig) -> Cluster:
    """A client of the cluster.

    Raises:
        ConfigError: if the extra `kubernetes` is not installed.
        KubernetesError: if there are no credentials.
    """
    if find_spec("kubernetes") is None:
        raise ConfigError(MISSING)
    return Cluster.connect(kubeconfig=config.kubeconfig, context=config.context, namespace=config.namespace)


class KubernetesRunner(RemoteRunner[Cluster]):
    """Starts trainers as jobs in one namespace."""

    poll_s = 2.0
    note_file = "kubernetes-job.json"

    def __init__(self, config: KubernetesConfig, *, connect: Callable[[KubernetesConfig], Cluster] = connect) -> None:
        super().__init__(
            place="the Kubernetes API", connect=partial(connect, config), unreachable_s=config.unreachable_s
        )
        self._config = config

    def prefix(self, job: TrainingJob) -> str:
        """Without the adapter's name, which may be no name of Kubernetes."""
        return f"{self._config.name_prefix}-{job.run_id}"

    def follow(self, run_folder: Path, note: Note) -> KubernetesAttempt:
        return KubernetesAttempt(self, run_folder, note)

    def knows(self, name: str) -> bool:
        return self.ask(lambda cluster: cluster.job(name)) is not None

    def submit(self, job: TrainingJob, name: str) -> None:
        """A job of this name that there is already is left as it is."""
        wanted = manifest(self._config, job, name)
        try:
            self.ask(lambda cluster: cluster.create(wanted))
        except JobRefusedError as exc:
            raise TrainingError(f"the Kubernetes API refuses the job: {exc}; correct training.kubernetes") from exc


class KubernetesAttempt(RemoteAttempt):
    """One job in the cluster."""

    end_timeout_s = STOP_GRACE_S + END_TIMEOUT_S

    def __init__(self, runner: KubernetesRunner, run_folder: Path, note: Note) -> None:
        super().__init__(run_folder, note, note_file=runner.note_file, poll_s=runner.poll_s)
        self._runner = runner
        self._pods: list[Pod] = []
        self._is_deleted = False
        """Whether the job was seen on its way out."""

    def __str__(self) -> str:
        return f"Kubernetes job {self.name}"

    def look(self) -> None:
        job = self._runner.ask(lambda cluster: cluster.job(self.name))
        if job is None:
            self.ends(DELETED if self._is_deleted else GONE)
            return
        self._pods = self._runner.ask(lambda cluster: cluster.pods(self.name))
        self._is_deleted = job.is_being_deleted
        has_ended = job.succeeded or job.failure is not None
        self.waits = None if has_ended else self._why_it_waits(job)
        if self.waits is None:
            self.copy_log(now=has_ended)
        if job.succeeded:
            self.ends("ended without an adapter")
        elif job.failure is not None:
            said = [job.failure, *(f"pod {pod.name}: {pod.end}" for pod in self._pods[-1:] if pod.end)]
            self.ends(f"failed in the cluster ({'; '.join(said)})")

    def read_log(self) -> str:
        """Of all pods that the job has had and the cluster still has."""
        return "".join(self._runner.ask(partial(Cluster.log, pod=pod.name)) for pod in self._pods)

    def cancel(self) -> None:
        """The pod gets SIGTERM, so that the trainer writes a checkpoint, and SIGKILL after STOP_GRACE_S."""
        self._runner.ask(lambda cluster: cluster.delete(self.name))
        self._is_deleted = True

    def _why_it_waits(self, job: Job) -> str | None:
        if job.is_being_deleted:
            return f"{self} is being deleted"
        if job.is_suspended:
            return f"{self} is suspended until its queue lets it start"
        pods = [pod for pod in self._pods if pod.end is None]
        if not pods:
            return f"{self} waits for a pod{self._warning(job.uid)}"
        newest = pods[-1]
        if newest.waits is None:
            return None
        return f"pod {newest.name} waits" + (f": {newest.waits}" if newest.waits else self._warning(newest.uid))

    def _warning(self, uid: str) -> str:
        warning = self._runner.ask(lambda cluster: cluster.warning(uid))
        return f": {warning}" if warning else ""


def manifest(config: KubernetesConfig, job: TrainingJob, name: str) -> dict[str, Any]:
    """The job that trains: one pod at a time, which the cluster replaces if it was taken away."""
    labels = {"app.kubernetes.io/name": "erratad", "app.kubernetes.io/component": "trainer", **config.labels}
    queue = {} if config.queue is None else {QUEUE_LABEL: config.queue}
    told = {"erratad/run": str(job.run_id), "erratad/adapter": job.name, "erratad/run-folder": str(job.run_folder)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {**labels, **queue}, "annotations": told},
        "spec": {
            "backoffLimit": 0,  # `training.max_attempts` counts failures
            "ttlSecondsAfterFinished": config.ttl_s,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "Ignore",
                        "onPodConditions": [],  # until 1.27 no rule may lack them
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": sorted([EXIT_BUSY, EXIT_STOPPED]),
                        },
                    },
                ]
            },
            "template": {"metadata": {"labels": labels, "annotations": told}, "spec": _pod(config, job)},
        },
    }


def _pod(config: KubernetesConfig, job: TrainingJob) -> dict[str, Any]:
    """What passes the pod security standard `restricted`."""
    variables = {**torch_settings(job.training.threads), "HOME": "/tmp", **config.env}  # noqa: S108
    owner: dict[str, Any] = {}
    if config.user is not None:
        owner = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), config.user)
        owner["fsGroupChangePolicy"] = "OnRootMismatch"
    claims = {f"claim-{number}": claim for number, claim in enumerate(config.claims)}
    given = {
        "serviceAccountName": config.service_account,
        "priorityClassName": config.priority_class,
        "nodeSelector": config.node_selector,
        "tolerations": config.tolerations,
        "imagePullSecrets": [{"name": secret} for secret in config.image_pull_secrets],
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": config.image,
        "command": [*job.training.launcher, "python", "-m", "daemon.training.trainer", str(job.run_folder / JOB_FILE)],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": config.resources.model_dump(exclude_defaults=True),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            *(_mount(name, claim) for name, claim in claims.items()),
            *({"name": name, "mountPath": path} for name, (path, _) in SCRATCH.items()),
        ],
    }
    if config.image_pull_policy is not None:
        container["imagePullPolicy"] = config.image_pull_policy
    return {
        **{key: value for key, value in given.items() if value},
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(STOP_GRACE_S),
        "securityContext": {
            "runAsNonRoot": True,
            **owner,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            *({"name": name, "persistentVolumeClaim": {"claimName": claim.claim}} for name, claim in claims.items()),
            *({"name": name, "emptyDir": kind} for name, (_, kind) in SCRATCH.items()),
        ],
    }


def _mount(name: str, claim: ClaimConfig) -> dict[str, Any]:
    mount = {"name": name, "mountPath": claim.path, "readOnly": claim.read_only}
    return mount if claim.sub_path is None else {**mount, "subPath": claim.sub_path}
