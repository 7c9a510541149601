"""The runner `kubernetes` against an API server: a job is made once, adopted, followed, cancelled, and its end told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic import ValidationError

from daemon.artifacts.run_folder import JOB_FILE
from daemon.config.training import KubernetesConfig, TrainingConfig
from daemon.errors import ConfigError, RunnerUnavailableError, TrainingError
from daemon.training import kubernetes_runner, remote_runner
from daemon.training.job import (
    EXIT_STOPPED,
    LOG_FILE,
    PROGRESS_FILE,
    STOP_FILE,
    Phase,
    TrainingJob,
    TrainingProgress,
    run_lock,
)
from daemon.training.kubernetes_runner import KubernetesRunner, manifest
from daemon.training.remote_runner import Note
from tests.fakes.kubernetes import INTERNAL, RULES, UNAUTHORIZED, FakeKubernetes, StatusError, wait_until
from tests.fixtures.remote_training import remote_job

EVERYTHING: dict[str, Any] = {
    "image": "registry.example.org/erratad:1",
    "image_pull_policy": "IfNotPresent",
    "image_pull_secrets": ["registry"],
    "name_prefix": "errata",
    "queue": "training",
    "priority_class": "batch",
    "labels": {"team": "chat"},
    "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}},
    "node_selector": {"gpu": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "service_account": "errata-trainer",
    "env": {"NCCL_DEBUG": "INFO"},
    "claims": [
        {"claim": "models", "path": "/srv/models/base", "sub_path": "qwen", "read_only": True},
        {"claim": "errata-runs", "path": "/var/lib/erratad/runs"},
    ],
    "ttl_s": 3600,
}
Make = Callable[..., KubernetesRunner]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeKubernetes]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with FakeKubernetes(folder).running() as fake:
        yield fake


@pytest.fixture
def runner(api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A runner, as a new daemon makes it."""
    monkeypatch.setattr(KubernetesRunner, "poll_s", 0.02)
    monkeypatch.setattr(remote_runner, "LOG_EVERY_S", 0.0)

    def make(**config: Any) -> KubernetesRunner:
        given = {"image": "erratad", "kubeconfig": api.kubeconfig, **config}
        return KubernetesRunner(KubernetesConfig.model_validate(given))

    return make


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return remote_job(tmp_path, name="Aligned_g000007", launcher=["torchrun", "--no-python"])


def note(job: TrainingJob) -> Note:
    return Note.load(job.run_folder / KubernetesRunner.note_file)


def pod_made(api: FakeKubernetes, count: int = 1) -> None:
    wait_until(lambda: len(api.pods) == count, "the pod")


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of kubernetes-validate 1.37
@pytest.mark.parametrize("config", [{"image": "erratad", "user": None}, EVERYTHING], ids=["least", "everything"])
def test_the_job_follows_kubernetes_schemas(job: TrainingJob, config: dict[str, Any], version: str) -> None:
    made = manifest(KubernetesConfig.model_validate(config), job, "errata-7-abc-1")
    kubernetes_validate.validate(made, version, strict=True)


def test_the_job_takes_queue_resources_and_claims_from_the_configuration(
    runner: Make, api: FakeKubernetes, job: TrainingJob
) -> None:
    TrainingProgress(step=9).save(job.run_folder)
    (job.run_folder / STOP_FILE).touch()

    attempt = runner(**EVERYTHING).start(job)

    [made] = api.created
    assert str(attempt) == f"Kubernetes job {made['metadata']['name']}"
    assert made["metadata"]["name"] == note(job).name
    assert made["metadata"]["name"].startswith("errata-7-")
    assert made["metadata"]["labels"].items() >= {"kueue.x-k8s.io/queue-name": "training", "team": "chat"}.items()
    assert made["metadata"]["annotations"]["erratad/adapter"] == job.name
    assert made["spec"]["ttlSecondsAfterFinished"] == 3600
    pod = made["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["command"] == [
        *("torchrun", "--no-python", "python", "-m", "daemon.training.trainer", str(job.run_folder / JOB_FILE)),
    ]
    limits = {"nvidia.com/gpu": "1", "memory": "64Gi"}
    assert container["resources"] == {"requests": EVERYTHING["resources"]["requests"], "limits": limits}
    assert {"name": "OMP_NUM_THREADS", "value": "2"} in container["env"]
    assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts["/srv/models/base"].items() >= {"subPath": "qwen", "readOnly": True}.items()
    volumes = {each["name"]: each for each in pod["volumes"]}
    runs = volumes[mounts["/var/lib/erratad/runs"]["name"]]
    assert runs["persistentVolumeClaim"]["claimName"] == "errata-runs"
    assert set(mounts) == {"/srv/models/base", "/var/lib/erratad/runs", "/tmp", "/dev/shm"}
    assert pod["nodeSelector"] == EVERYTHING["node_selector"]
    assert pod["tolerations"] == EVERYTHING["tolerations"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("errata-trainer", "batch")
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsUser"] == 10001
    assert [(job.run_folder / name).exists() for name in (PROGRESS_FILE, STOP_FILE)] == [False, False]


def test_a_job_is_followed_to_its_failure_with_its_log(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    (job.run_folder / LOG_FILE).write_text("an earlier attempt\n")
    attempt = runner().start(job)
    pod_made(api)
    api.starts("loads\n")
    assert (attempt.ended(), attempt.waits) == (None, None)
    adopted = runner().start(job)
    api.starts("loads\n\x1b[36mtrains\x1b[0m\n")
    api.ends(137, "OOMKilled")
    wait_until(lambda: adopted.ended() is not None, "the end")

    failure = "BackoffLimitExceeded: Job has reached the specified backoff limit"
    pod = api.pod["metadata"]["name"]
    assert adopted.ended() == f"failed in the cluster ({failure}; pod {pod}: OOMKilled, exit code 137)"
    assert (job.run_folder / LOG_FILE).read_text() == "an earlier attempt\nloads\ntrains\n"
    assert not note(job).open


@pytest.mark.parametrize("becomes", ["pending", "running", "succeeded", "failed"])
def test_a_daemon_that_restarts_adopts_the_job_whatever_became_of_it(
    runner: Make, api: FakeKubernetes, job: TrainingJob, becomes: str
) -> None:
    first = runner().start(job)
    pod_made(api)
    if becomes != "pending":
        api.starts()
    if becomes in {"succeeded", "failed"}:
        api.ends(int(becomes == "failed"))
    TrainingProgress(phase=Phase.REFUSED, reason="no").save(job.run_folder)

    with run_lock(job.run_folder):  # the trainer holds it
        assert not runner().busy(job.run_folder)
        adopted = runner().start(job)

    assert str(adopted) == str(first)
    assert len(api.created) == 1
    assert TrainingProgress.load(job.run_folder).reason == "no"


def test_an_answer_that_is_lost_after_the_creation_doubles_no_job(
    runner: Make, api: FakeKubernetes, job: TrainingJob
) -> None:
    noted = Note().next(job, prefix="erratad-7").save(job.run_folder / KubernetesRunner.note_file)
    config = KubernetesConfig(image="erratad", kubeconfig=api.kubeconfig)
    api.loses_answers = True
    with pytest.raises(RunnerUnavailableError, match="Connection aborted"):
        runner().submit(job, noted.name)
    api.loses_answers = False
    runner().submit(job, noted.name)  # AlreadyExists

    attempt = runner().start(job)

    assert api.created == [manifest(config, job, noted.name)]
    assert str(attempt) == f"Kubernetes job {noted.name}"


def test_a_crash_before_the_creation_loses_no_job(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    noted = Note().next(job, prefix="erratad-7").save(job.run_folder / KubernetesRunner.note_file)
    runner().start(job)
    assert list(api.jobs) == [noted.name]


def test_the_job_after_one_that_failed_has_a_name_of_its_own(
    runner: Make, api: FakeKubernetes, job: TrainingJob
) -> None:
    first = runner().start(job)
    pod_made(api)
    api.ends(1)
    wait_until(lambda: first.ended() is not None, "the end")

    runner().start(job)

    [name, after] = api.jobs
    assert after == f"{name.removesuffix('-1')}-2"


def test_a_pod_that_the_cluster_takes_away_is_replaced_and_ends_no_job(
    runner: Make, api: FakeKubernetes, job: TrainingJob
) -> None:
    attempt = runner().start(job)
    pod_made(api)
    first = api.pod["metadata"]["name"]
    api.starts()
    api.evict()
    wait_until(lambda: first not in api.pods and bool(api.pods), "another pod")
    assert (attempt.ended(), attempt.waits) == (None, f"pod {api.pod['metadata']['name']} waits")
    api.starts()
    api.ends(EXIT_STOPPED)  # SIGTERM by another way
    pod_made(api, 2)
    assert attempt.ended() is None
    assert len(api.created) == 1


def test_what_the_job_waits_for_is_said(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    attempt = runner(queue="training").start(job)
    name = api.job["metadata"]["name"]
    assert attempt.ended() is None
    assert attempt.waits == f"Kubernetes job {name} is suspended until its queue lets it start"

    api.job["spec"]["suspend"] = False
    wait_until(lambda: bool(api.pods), "the pod")
    pod = api.pod["metadata"]["name"]
    for makes, said in (
        (lambda: None, f"pod {pod} waits"),
        (
            lambda: api.unschedulable("0/3 nodes are available"),
            f"pod {pod} waits: Unschedulable: 0/3 nodes are available",
        ),
        (lambda: api.container_waits("ErrImagePull", "not found"), f"pod {pod} waits: ErrImagePull: not found"),
        (lambda: api.container_waits("ContainerCreating"), f"pod {pod} waits"),
        (lambda: api.warns(api.pod, "FailedMount", "no such claim"), f"pod {pod} waits: FailedMount: no such claim"),
        (api.starts, None),
    ):
        makes()
        assert (attempt.ended(), attempt.waits) == (None, said)


def test_a_job_that_gets_no_pod_is_said_with_the_latest_warning(
    runner: Make, api: FakeKubernetes, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_create_pod", lambda _job: None)
    attempt = runner().start(job)
    assert (attempt.ended(), attempt.waits) == (None, f"{attempt} waits for a pod")
    api.warns(api.job, "FailedCreate", "pods are forbidden: exceeded quota: gpus")
    assert attempt.ended() is None
    assert attempt.waits == f"{attempt} waits for a pod: FailedCreate: pods are forbidden: exceeded quota: gpus"


def test_a_job_that_others_delete_has_ended_once_it_is_gone(
    runner: Make, api: FakeKubernetes, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = runner().start(job)
    pod_made(api)
    api.starts()
    name = api.job["metadata"]["name"]
    monkeypatch.setattr(api, "_delete_pod", lambda _pod: None)  # it takes its time
    api.delete_job(name)
    assert (attempt.ended(), attempt.waits) == (None, f"Kubernetes job {name} is being deleted")
    api.expire()
    assert attempt.ended() == "was deleted in the cluster"
    assert not note(job).open


def test_a_job_whose_ttl_was_over_before_it_was_seen_has_ended(
    runner: Make, api: FakeKubernetes, job: TrainingJob
) -> None:
    attempt = runner().start(job)
    pod_made(api)
    api.expire()
    assert attempt.ended() == "is gone from the cluster, deleted or past its TTL,"
    runner().start(job)
    assert len(api.created) == 2


def test_a_stop_deletes_the_job_and_waits_for_its_pod(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    attempt = runner().start(job)
    pod_made(api)
    api.starts()
    attempt.stop()
    assert (api.jobs, api.pods) == ({}, {})
    assert attempt.ended() == "was deleted in the cluster"
    assert not note(job).open
    attempt.stop()


def test_a_stop_leaves_a_job_that_has_ended_alone(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    attempt = runner().start(job)
    pod_made(api)
    api.starts("trained\n")
    api.ends(0)
    wait_until(lambda: attempt.ended() is not None, "the end")
    attempt.stop()
    assert attempt.ended() == "ended without an adapter"
    assert list(api.jobs) == [note(job).name]


def test_a_job_of_a_run_that_has_ended_is_deleted_once(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    assert not runner().forget(job.run_folder)
    runner().start(job)
    pod_made(api)
    assert runner().forget(job.run_folder)
    assert not runner().forget(job.run_folder)
    assert api.jobs == {}


@pytest.mark.parametrize("answer", [UNAUTHORIZED, INTERNAL], ids=["unauthorized", "internal"])
def test_an_api_server_that_does_not_answer_is_waited_for_and_named(
    runner: Make, api: FakeKubernetes, job: TrainingJob, answer: StatusError
) -> None:
    api.failing = answer
    said = f"the Kubernetes API does not answer as it should: {answer}"
    with pytest.raises(RunnerUnavailableError, match=said):
        runner().start(job)
    api.failing = None
    attempt = runner().start(job)
    pod_made(api)
    api.starts()

    api.failing = answer
    assert (attempt.ended(), attempt.waits) == (None, said)
    attempt.stop()
    assert note(job).open
    api.failing = None
    assert (attempt.ended(), attempt.waits) == (None, None)
    assert len(api.created) == 1


def test_an_api_server_that_stays_silent_fails_the_run(runner: Make, api: FakeKubernetes, job: TrainingJob) -> None:
    silent = runner(unreachable_s=0.01)
    api.away = True
    with pytest.raises(RunnerUnavailableError):
        silent.start(job)
    time.sleep(0.02)
    with pytest.raises(TrainingError, match=r"that is so for over 0\.01 s"):
        silent.start(job)


def test_a_job_that_can_never_be_fails_the_run_at_once(runner: Make, job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match=r"refuses the job: .*image: Required value; correct training\.kubernetes"):
        runner(image="").start(job)


@pytest.mark.parametrize("missing", range(len(RULES)))
def test_every_right_that_the_daemon_has_is_needed(
    runner: Make, api: FakeKubernetes, job: TrainingJob, missing: int
) -> None:
    api.rules = [rule for number, rule in enumerate(RULES) if number != missing]
    with pytest.raises((RunnerUnavailableError, TrainingError), match="is forbidden: User"):  # noqa: PT012 - any of them
        attempt = runner().start(job)
        pod_made(api)
        attempt.look()
        api.starts()
        attempt.look()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, job: TrainingJob) -> None:
    monkeypatch.setattr(kubernetes_runner, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"install erratad\[kubernetes\]"):
        KubernetesRunner(KubernetesConfig(image="erratad")).start(job)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runner": "kubernetes"}, "runner kubernetes needs kubernetes.image"),
        ({"kubernetes": {"name_prefix": "Errata"}}, "should match pattern"),
        ({"kubernetes": {"claims": [{"claim": "runs", "path": "runs"}]}}, "should match pattern"),
        ({"kubernetes": {"resources": {"limits": {"nvidia.com/gpu": True}}}}, "valid string"),
        ({"kubernetes": {"ttl_s": 0}}, "greater than 0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TrainingConfig.model_validate(values)
    assert words in str(refused.value)
