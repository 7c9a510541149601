"""The client of a Kubernetes cluster against an API server with the real API's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config

from connectors import kubernetes
from connectors.kubernetes import Cluster, JobRefusedError, KubernetesError
from tests.fakes.kubernetes import (
    INTERNAL,
    NAMESPACE,
    OVERLOADED,
    RULES,
    UNAUTHORIZED,
    FakeKubernetes,
    StatusError,
    wait_until,
)
from tests.fixtures.deploy import ROOT

CERTIFICATE = ROOT / "tests" / "fixtures" / "tls" / "localhost.crt"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeKubernetes]:
    with FakeKubernetes(tmp_path).running() as fake:
        yield fake


@pytest.fixture
def cluster(api: FakeKubernetes) -> Cluster:
    return Cluster.connect(kubeconfig=api.kubeconfig, context=None, namespace=None)


def manifest(name: str = "train-1", **container: Any) -> dict[str, Any]:
    main = {"name": "trainer", "image": "erratad", "command": ["python"], **container}
    pod = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 60, "containers": [main]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": "erratad"}},
        "spec": {
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
            "template": {"metadata": {"labels": {"app": "erratad"}}, "spec": pod},
        },
    }


@pytest.fixture
def made(api: FakeKubernetes, cluster: Cluster) -> str:
    """The name of a job with a pod that waits."""
    cluster.create(manifest())
    wait_until(lambda: bool(api.pods), "a pod")
    return "train-1"


def test_namespace_and_address_come_from_the_context_unless_one_is_named(api: FakeKubernetes) -> None:
    given = Cluster.connect(kubeconfig=api.kubeconfig, context="here", namespace=None)
    named = Cluster.connect(kubeconfig=api.kubeconfig, context=None, namespace="other")
    assert (given.address, given.namespace, named.namespace) == (api.url, NAMESPACE, "other")


def test_in_a_pod_the_service_account_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-the-pod")
    (tmp_path / "namespace").write_text("training\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(CERTIFICATE))
    monkeypatch.setattr(kubernetes, "_NAMESPACE_FILE", tmp_path / "namespace")

    given = Cluster.connect(kubeconfig=None, context=None, namespace=None)
    assert (given.address, given.namespace) == ("https://10.0.0.1:443", "training")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "no-token"))
    with pytest.raises(KubernetesError, match="no credentials of a cluster"):
        Cluster.connect(kubeconfig=None, context=None, namespace=None)


def test_missing_credentials_are_named(tmp_path: Path) -> None:
    with pytest.raises(KubernetesError, match=r"no credentials of a cluster: Invalid kube-config file"):
        Cluster.connect(kubeconfig=tmp_path / "nowhere", context=None, namespace=None)


def test_a_context_that_is_unknown_is_named(api: FakeKubernetes) -> None:
    with pytest.raises(KubernetesError, match="elsewhere"):
        Cluster.connect(kubeconfig=api.kubeconfig, context="elsewhere", namespace=None)


def test_a_job_is_made_once_and_gone_after_its_deletion(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    cluster.create(manifest(made, image="another"))

    assert [job["spec"]["template"]["spec"]["containers"][0]["image"] for job in api.created] == ["erratad"]
    job = cluster.job(made)
    assert job is not None
    assert (job.is_being_deleted, job.is_suspended, job.succeeded, job.failure) == (False, False, False, None)

    api.starts()
    cluster.delete(made)
    cluster.delete(made)
    wait_until(lambda: cluster.job(made) is None, "the end of the job")
    assert cluster.pods(made) == []
    cluster.delete(made)


@pytest.mark.parametrize(
    ("code", "reason", "end"), [(0, None, "Completed, exit code 0"), (137, "OOMKilled", "OOMKilled, exit code 137")]
)
def test_the_end_of_a_pod_is_told_with_its_reason(
    api: FakeKubernetes, cluster: Cluster, made: str, code: int, reason: str | None, end: str
) -> None:
    api.starts()
    [pod] = cluster.pods(made)
    assert (pod.waits, pod.end) == (None, None)
    api.ends(code, reason)
    [pod] = cluster.pods(made)
    assert (pod.waits, pod.end) == (None, end)
    wait_until(lambda: bool(api.job["status"]["conditions"]), "the end of the job")
    job = cluster.job(made)
    assert job is not None
    failure = "BackoffLimitExceeded: Job has reached the specified backoff limit"
    assert (job.succeeded, job.failure) == ((True, None) if code == 0 else (False, failure))


def test_an_evicted_pod_says_so(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    api.starts()
    with api.lock:  # before the pod is replaced
        api.evict()
        [evicted] = [kubernetes._pod(each) for each in _pods_of(cluster, api)]
    assert evicted.end == "EvictionByEvictionAPI: Eviction API: evicting, Error, exit code 143"


def _pods_of(cluster: Cluster, api: FakeKubernetes) -> list[Any]:
    from kubernetes.client import V1Pod  # noqa: PLC0415

    return [V1Pod.from_dict(pod) for pod in api.pods.values()]


def test_why_a_pod_does_not_run_is_told(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    assert [pod.waits for pod in cluster.pods(made)] == [""]
    api.unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    [pod] = cluster.pods(made)
    assert pod.waits == "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    api.container_waits("ContainerCreating")
    assert [pod.waits for pod in cluster.pods(made)] == [""]
    api.container_waits("ImagePullBackOff", 'Back-off pulling image "erratad"')
    assert [pod.waits for pod in cluster.pods(made)] == ['ImagePullBackOff: Back-off pulling image "erratad"']


def test_the_latest_warning_about_an_object_is_told(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    [pod] = cluster.pods(made)
    assert cluster.warning(pod.uid) is None
    api.warns(api.pod, "FailedScheduling", "no node")
    api.events[-1]["lastTimestamp"] = "2026-01-01T00:00:00Z"
    api.warns(api.pod, "FailedMount", "the claim is not bound")
    api.warns(api.job, "FailedCreate", "exceeded quota")
    assert cluster.warning(pod.uid) == "FailedMount: the claim is not bound"


def test_a_pods_log_is_read_from_its_container(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    [pod] = cluster.pods(made)
    assert cluster.log(pod.name) == ""
    api.starts("loads\ntrains ü\n")
    assert cluster.log(pod.name) == "loads\ntrains ü\n"
    assert cluster.log("no-such-pod") == ""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (UNAUTHORIZED, "Unauthorized"),
        (OVERLOADED, "too many requests"),
        (INTERNAL, "etcdserver: request timed out"),
        (StatusError(403, "Forbidden", 'pods "x" is forbidden: exceeded quota'), "exceeded quota"),
        (StatusError(502, "", "no gateway"), "no gateway"),
    ],
)
def test_an_answer_that_may_change_is_an_error_to_wait_for(
    api: FakeKubernetes, cluster: Cluster, made: str, answer: StatusError, said: str
) -> None:
    api.failing = answer
    for ask in (
        lambda: cluster.job(made),
        lambda: cluster.pods(made),
        lambda: cluster.create(manifest("train-2")),
        lambda: cluster.delete(made),
        lambda: cluster.log("a-pod"),
    ):
        with pytest.raises(KubernetesError, match=said):
            ask()
    assert len(api.created) == 1


def test_a_server_that_is_away_or_loses_its_answer_is_an_error_to_wait_for(
    api: FakeKubernetes, cluster: Cluster
) -> None:
    api.loses_answers = True
    with pytest.raises(KubernetesError, match="Connection aborted"):
        cluster.create(manifest())
    api.loses_answers, api.away = False, True
    with pytest.raises(KubernetesError, match="Connection aborted"):
        cluster.job("train-1")
    api.away = False
    assert cluster.job("train-1") is not None


def test_a_right_that_is_missing_is_named(api: FakeKubernetes, cluster: Cluster, made: str) -> None:
    api.rules = RULES[:1]
    with pytest.raises(KubernetesError, match='errata" cannot list resource "pods"'):
        cluster.pods(made)


def test_a_question_that_is_invalid_is_an_error_to_wait_for_and_refuses_no_job(
    api: FakeKubernetes, cluster: Cluster
) -> None:
    api.failing = StatusError(400, "BadRequest", "unable to parse the selector")
    with pytest.raises(KubernetesError, match="unable to parse"):
        cluster.pods("train-1")


def test_a_job_that_can_never_be_is_refused(cluster: Cluster) -> None:
    with pytest.raises(JobRefusedError, match=r"containers\[0\].image: Required value"):
        cluster.create(manifest(image=""))
    with pytest.raises(JobRefusedError, match="backoffLimit"):
        cluster.create({**manifest(), "spec": {**manifest()["spec"], "backoffLimit": "many"}})


def test_a_namespace_that_is_missing_is_an_error_to_wait_for(cluster: Cluster) -> None:
    cluster.namespace = "nowhere"
    with pytest.raises(KubernetesError, match='namespaces "nowhere" not found'):
        cluster.create(manifest())


def test_an_address_that_is_no_api_server_is_an_error_to_wait_for(api: FakeKubernetes, cluster: Cluster) -> None:
    api.failing = StatusError(404, "", "a page")
    with pytest.raises(KubernetesError, match="a page"):
        cluster.job("train-1")
