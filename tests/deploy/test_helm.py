"""The chart, by Helm's linter and Kubernetes' schemas; what they cannot see is asserted here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from daemon import __version__
from daemon.config import Config
from daemon.config.training import TrainingConfig
from daemon.training import kubernetes_runner
from daemon.training.job import TrainingJob
from tests.fakes.kubernetes import RULES
from tests.fixtures.deploy import DEPLOY, checked, tool

CHART = DEPLOY / "helm" / "erratad"
KUBERNETES = ("1.27.0", "1.37.0")
"""The oldest version that Chart.yaml allows, and the newest one known here."""
OPERATOR_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""The Prometheus operator's: not among Kubernetes' own schemas."""
MONITORING = ("monitoring.serviceMonitor.enabled=true", "monitoring.prometheusRule.enabled=true")


SEVERAL = (
    "daemon.replicas=3",
    *(f"secrets.keys.{name}Key={name}-key" for name in ("privacy", "split", "session")),
)
DOWNLOAD = ("model.download.enabled=true", "model.download.repository=Qwen/Qwen3-8B", "model.subPath=qwen3-8b")
CA = (
    *("daemon.extraVolumes[0].name=ca", "daemon.extraVolumes[0].secret.secretName=kafka-ca"),
    *("daemon.extraVolumeMounts[0].name=ca", "daemon.extraVolumeMounts[0].mountPath=/etc/kafka"),
    "config.intake.kafka.ssl_cafile=/etc/kafka/ca.crt",
)
INGRESS = ("ingress.enabled=true", "ingress.hosts.daemon=errata.example.org", "ingress.hosts.model=model.example.org")
CACHE = ("vllm.cache.enabled=true", "vllm.cache.storageClass=fast")
JOBS = (
    "training.runner=kubernetes",
    "training.kubernetes.queue=gpus",
    "training.kubernetes.priorityClass=batch",
    "training.kubernetes.resources.limits.nvidia\\.com/gpu=1",
    "training.kubernetes.nodeSelector.gpu=a100",
    "training.kubernetes.tolerations[0].key=nvidia.com/gpu",
    "training.kubernetes.tolerations[0].operator=Exists",
    "training.kubernetes.labels.team=chat",
    "training.kubernetes.ttlSeconds=600",
    "image.pullSecrets[0].name=registry",
    "model.subPath=qwen3-8b",
)
RAY = ("training.runner=ray", "training.ray.address=http://ray-head:8266", "training.ray.workers=4")
STORE = (
    "adapterStore.url=s3://models/erratad",
    "adapterStore.options.region=eu-central-1",
    "adapterStore.port=9000",
    "secrets.keys.adapterStoreOptions=store-options",
)


TRAINING_JOB = TrainingJob(
    run_id=1,
    generation=1,
    name="aligned-g000001",
    recipe="sft",
    seed=1,
    run_folder=Path("/var/lib/erratad/runs/g000001"),
    adapters_dir=Path("/var/lib/erratad/adapters"),
    model_path=Path("/srv/models/base"),
    base_fingerprint="f" * 64,
    training=TrainingConfig(),
)


def helm(*values: str) -> subprocess.CompletedProcess[str]:
    settings = [part for value in values for part in ("--set", value)]
    command = [tool("helm"), "template", "errata", str(CHART), "--namespace", "chat", *settings]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*values: str) -> list[dict[str, Any]]:
    done = helm(*values)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def one(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def container(manifests: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [only] = one(manifests, "StatefulSet", name)["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def config_of(manifests: list[dict[str, Any]]) -> Config:
    text = one(manifests, "ConfigMap", "errata")["data"]["erratad.yaml"]
    return Config.model_validate(yaml.safe_load(text))


def test_the_notes_name_every_topic_that_the_cluster_must_have() -> None:
    sources = 'config.intake.sources=[{"name": "shop", "topic": "shop.flagged"}, {"name": "app", "token": "app"}]'
    command = [tool("helm"), "install", "errata", str(CHART), "--dry-run=client", "--set-json", sources]
    notes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("NOTES:")[1]
    listed = [
        line.split()[0] for line in notes.partition("must have")[2].partition("Its state")[0].splitlines()[1:] if line
    ]
    assert listed == ["erratad.flagged-responses", "shop.flagged", "erratad.flagged-responses.dead-letter"]


def test_the_chart_passes_helms_own_linter() -> None:
    checked(tool("helm"), "lint", "--strict", CHART)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # kubernetes-validate 1.37 still uses jsonschema's RefResolver
@pytest.mark.parametrize(
    "values",
    [
        (),
        MONITORING,
        ("networkPolicy.enabled=false", "vllm.replicas=1", "secrets.keys.vllmApiKey=", "model.subPath=base"),
        ("vllm.resources.limits.nvidia\\.com/gpu=1", "image.pullSecrets[0].name=registry", "daemon.nodeSelector.a=b"),
        (*SEVERAL, *DOWNLOAD, "model.download.tokenKey=hub-token", *CA, *INGRESS, *CACHE),
        (*JOBS, *STORE),
        (*RAY, "secrets.keys.rayToken=ray-token"),
    ],
    ids=["defaults", "monitoring", "least", "gpu", "everything", "jobs", "ray"],
)
def test_the_rendered_manifests_follow_kubernetes_schemas(version: str, values: tuple[str, ...]) -> None:
    kinds = set()
    for manifest in rendered(*values):
        kinds.add(manifest["kind"])
        if manifest["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(manifest, version, strict=True)
    assert {"StatefulSet", "Service", "PodDisruptionBudget", "ConfigMap", "ServiceAccount", "Pod"} <= kinds


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_schema_check_would_notice_a_wrong_manifest() -> None:
    broken = one(rendered(), "StatefulSet", "errata-vllm")
    broken["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_the_chart_writes_a_configuration_that_erratad_takes() -> None:
    config = config_of(rendered("vllm.replicas=3", "config.gate.min_items=9", "secrets.keys.kafkaPassword="))
    assert config.serving.mode == "attached"
    assert config.serving.discover == "dns://errata-vllm-replicas:8000"
    assert config.gate.min_items == 9
    assert config.http.token_env == "ERRATAD_HTTP_TOKEN"


def test_the_example_values_work_with_kafka_over_tls() -> None:
    sasl = "security_protocol=SASL_SSL,sasl_mechanism=SCRAM-SHA-512,sasl_username=erratad"
    values = [f"config.intake.kafka.{pair}" for pair in sasl.split(",")]
    kafka = config_of(rendered(*values, "secrets.keys.kafkaPassword=kafka-password")).intake.kafka
    assert kafka is not None
    assert kafka.sasl_password_env == "ERRATAD_KAFKA_PASSWORD"


def test_pods_get_every_secret_that_the_configuration_names_by_reference() -> None:
    manifests = rendered("secrets.keys.kafkaPassword=kafka-password")
    given = {env["name"]: env["valueFrom"]["secretKeyRef"] for env in container(manifests, "errata")["env"]}
    named = set(re.findall(r"_env: (\w+)", one(manifests, "ConfigMap", "errata")["data"]["erratad.yaml"]))
    assert named == set(given)
    assert {reference["name"] for reference in given.values()} == {"erratad"}
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]


def test_in_kubernetes_daemon_and_vllm_see_the_same_adapters() -> None:
    manifests = rendered()
    where = str(config_of(manifests).adapters_dir)
    for name, read_only in (("errata", False), ("errata-vllm", True)):
        [mount] = [one for one in container(manifests, name)["volumeMounts"] if one["mountPath"] == where]
        assert mount.get("readOnly", False) is read_only
        volumes = one(manifests, "StatefulSet", name)["spec"]["template"]["spec"]["volumes"]
        [volume] = [volume for volume in volumes if volume["name"] == mount["name"]]
        assert volume["persistentVolumeClaim"]["claimName"] == "errata-adapters"
    claim = one(manifests, "PersistentVolumeClaim", "errata-adapters")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_probes_and_services_let_traffic_to_servers_that_answer_under_the_alias() -> None:
    manifests = rendered()
    daemon, vllm = container(manifests, "errata"), container(manifests, "errata-vllm")
    assert daemon["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert daemon["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert vllm["readinessProbe"]["httpGet"]["path"] == "/erratad/v1/ready"
    labels = one(manifests, "StatefulSet", "errata-vllm")["spec"]["template"]["metadata"]["labels"]
    for name, not_ready_too in (("errata-vllm", False), ("errata-vllm-replicas", True)):
        spec = one(manifests, "Service", name)["spec"]
        assert spec["selector"].items() <= labels.items()
        assert spec.get("publishNotReadyAddresses", False) is not_ready_too


PEERS = (
    "networkPolicy.clients[0].podSelector.matchLabels.app=backend",
    "networkPolicy.operators[0].podSelector.matchLabels.app=desk",
    "networkPolicy.prometheus[0].podSelector.matchLabels.app=prometheus",
    "networkPolicy.prometheus[0].namespaceSelector.matchLabels.name=monitoring",
)


def _admitted(manifests: list[dict[str, Any]], name: str) -> set[str]:
    """The pods that a policy admits, by their label `app` or, of the chart itself, their component."""
    [rule] = one(manifests, "NetworkPolicy", name)["spec"]["ingress"]
    selected = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert all(selected), "an empty selector admits every pod"
    return {labels.get("app") or labels["app.kubernetes.io/component"] for labels in selected}


def test_the_network_policies_admit_named_pods_only() -> None:
    alone, named = rendered(), rendered(*PEERS)
    assert _admitted(alone, "errata") == {"test"}
    assert _admitted(alone, "errata-vllm") == {"daemon", "test"}
    assert _admitted(named, "errata") == {"test", "desk", "prometheus"}
    assert _admitted(named, "errata-vllm") == {"daemon", "test", "backend", "prometheus"}
    scraping = one(named, "NetworkPolicy", "errata-vllm")["spec"]["ingress"][0]["from"]
    assert {"matchLabels": {"name": "monitoring"}} in [peer.get("namespaceSelector") for peer in scraping]
    assert one(named, "NetworkPolicy", "errata-vllm")["spec"]["egress"] == []
    assert one(named, "Pod", "errata-test")["metadata"]["labels"]["app.kubernetes.io/component"] == "test"


def test_prometheus_may_read_the_metrics_of_the_servers_and_nothing_else_is_opened() -> None:
    assert config_of(rendered()).serving.open_routes == ["/metrics"]


def test_another_number_of_replicas_restarts_neither_servers_nor_daemon() -> None:
    def checksum(count: int, name: str) -> str:
        template = one(rendered(f"vllm.replicas={count}"), "StatefulSet", name)["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum(2, "errata-vllm") == checksum(5, "errata-vllm")
    assert checksum(2, "errata") == checksum(5, "errata")


def test_the_chart_ships_the_rules_that_prometheus_loads_elsewhere(tmp_path: Path) -> None:
    files = [yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]
    spec = one(rendered("monitoring.prometheusRule.enabled=true"), "PrometheusRule", "errata")["spec"]
    assert spec["groups"] == [group for file in files for group in file["groups"]]
    assert any("alert" in rule for group in spec["groups"] for rule in group["rules"])
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(spec))
    checked(tool("promtool"), "check", "rules", rules)


def test_the_rules_of_a_scraped_release_miss_that_release_and_link_to_the_runbook() -> None:
    base = "https://docs.example.org/runbook.html"
    manifests = rendered(*MONITORING, f"monitoring.prometheusRule.runbookBaseUrl={base}", "model.subPath=qwen/tiny")
    groups = one(manifests, "PrometheusRule", "errata")["spec"]["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    missed = 'absent(up{job="erratad", namespace="chat", release="errata", model="tiny"})'
    assert alerts["ErratadNoTarget"]["expr"] == missed
    links = {name: alert["annotations"]["runbook_url"] for name, alert in alerts.items()}
    assert links == {name: f"{base}#{name.lower()}" for name in alerts}


@pytest.mark.parametrize(
    ("values", "model"),
    [((), "models"), (("model.subPath=qwen/tiny",), "tiny"), (("monitoring.model=Qwen 2.5",), "Qwen 2.5")],
    ids=["claim", "folder", "given"],
)
def test_every_series_names_release_and_model(values: tuple[str, ...], model: str) -> None:
    [endpoint] = one(rendered(*MONITORING, *values), "ServiceMonitor", "errata")["spec"]["endpoints"]
    given = {rule["targetLabel"]: rule["replacement"] for rule in endpoint["relabelings"] if "regex" not in rule}
    assert given == {"release": "errata", "model": model}


def test_the_service_monitor_scrapes_the_jobs_that_the_rules_ask_for() -> None:
    manifests = rendered(*MONITORING)
    spec = one(manifests, "ServiceMonitor", "errata")["spec"]
    [among] = spec["selector"]["matchExpressions"]
    services = [each for each in manifests if each["kind"] == "Service"]
    scraped = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in services}
    assert set(among["values"]) == {"daemon", "vllm-replicas"} <= set(scraped)
    [endpoint] = spec["endpoints"]
    assert all(scraped[name]["spec"]["ports"][0]["name"] == endpoint["port"] for name in among["values"])
    jobs = {rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"}
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    # in a cluster the GPU operator brings a monitor of its own for dcgm-exporter
    assert jobs == {job["job_name"] for job in scrape} - {"dcgm"}


def test_what_is_off_by_default_leaves_nothing_behind() -> None:
    manifests = rendered()
    kinds = [manifest["kind"] for manifest in manifests]
    assert "Ingress" not in kinds
    assert kinds.count("PersistentVolumeClaim") == 1
    for name in ("errata", "errata-vllm"):
        spec = one(manifests, "StatefulSet", name)["spec"]
        assert "initContainers" not in spec["template"]["spec"]
        assert "nvidia.com/gpu" not in str(spec["template"]["spec"]["containers"][0]["resources"])
    assert one(manifests, "StatefulSet", "errata")["spec"]["replicas"] == 1
    assert "volumeClaimTemplates" not in one(manifests, "StatefulSet", "errata-vllm")["spec"]


def init_container(manifests: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [only] = one(manifests, "StatefulSet", name)["spec"]["template"]["spec"]["initContainers"]
    assert isinstance(only, dict)
    return only


def test_one_daemon_downloads_the_model_and_all_others_wait_without_network() -> None:
    manifests = rendered(*DOWNLOAD, *SEVERAL, "model.download.tokenKey=hub-token")
    daemon, vllm = init_container(manifests, "errata"), init_container(manifests, "errata-vllm")
    assert "hf download" in daemon["args"][0]
    assert "hf download" not in vllm["args"][0]
    assert {mount["subPath"] for mount in (daemon["volumeMounts"][0], vllm["volumeMounts"][0])} == {"qwen3-8b"}
    assert vllm["volumeMounts"][0]["readOnly"] is True
    assert "HF_TOKEN" in {env["name"] for env in daemon["env"]}
    assert "HF_TOKEN" not in {env["name"] for env in vllm["env"]}
    ports = [
        port["port"] for rule in one(manifests, "NetworkPolicy", "errata")["spec"]["egress"] for port in rule["ports"]
    ]
    assert 443 in ports
    assert one(manifests, "NetworkPolicy", "errata-vllm")["spec"]["egress"] == []


@pytest.mark.parametrize(("pod", "downloads"), [("errata-0", 1), ("errata-1", 0), ("errata-10", 0)])
def test_the_download_is_made_once_by_the_first_pod_and_not_at_later_starts(
    tmp_path: Path, pod: str, downloads: int
) -> None:
    script = init_container(rendered(*DOWNLOAD), "errata")["args"][0].replace("/srv/models/base", str(tmp_path))
    (tmp_path / "hf").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    (tmp_path / "sleep").write_text(f"#!/bin/sh\ntouch {tmp_path}/mark\n")  # another pod has finished
    for name in ("hf", "sleep"):
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOSTNAME": pod,
        "MARK": str(tmp_path / "mark"),
        "REPOSITORY": "Qwen/Qwen3-8B",
        "REVISION": "main",
    }
    for _ in range(2):
        subprocess.run(["sh", "-euc", script], env=environment, check=True, capture_output=True)
    called = (tmp_path / "called").read_text().splitlines() if (tmp_path / "called").exists() else []
    assert called == [f"download Qwen/Qwen3-8B --revision main --local-dir {tmp_path}"] * downloads


def test_a_failed_download_leaves_no_mark(tmp_path: Path) -> None:
    script = init_container(rendered(*DOWNLOAD), "errata")["args"][0].replace("/srv/models/base", str(tmp_path))
    (tmp_path / "hf").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "hf").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOSTNAME": "errata-0",
        "MARK": str(tmp_path / "mark"),
        "REPOSITORY": "Qwen/Qwen3-8B",
        "REVISION": "main",
    }
    assert subprocess.run(["sh", "-euc", script], env=environment, check=False, capture_output=True).returncode == 1
    assert not (tmp_path / "mark").exists()


def test_several_daemons_share_runs_and_keys_and_nothing_else() -> None:
    manifests = rendered(*SEVERAL)
    spec = one(manifests, "StatefulSet", "errata")["spec"]
    assert spec["replicas"] == 3
    shared = {volume["name"] for volume in spec["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume}
    assert shared == {"model", "adapters", "runs"}
    config = config_of(manifests)
    assert config.privacy.key_env == "ERRATAD_PRIVACY_KEY"
    assert config.dataset.split_key_env == "ERRATAD_SPLIT_KEY"
    assert config.http.session_key_env == "ERRATAD_SESSION_KEY"
    assert {config.privacy.key_env, config.dataset.split_key_env, config.http.session_key_env} <= {
        env["name"] for env in container(manifests, "errata")["env"]
    }
    runs = one(manifests, "PersistentVolumeClaim", "errata-runs")
    assert runs["spec"]["accessModes"] == ["ReadWriteMany"]


def test_several_daemons_stand_apart_and_are_disrupted_one_at_a_time() -> None:
    manifests = rendered(*SEVERAL)
    pod = one(manifests, "StatefulSet", "errata")["spec"]["template"]
    [apart] = pod["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    selected = apart["podAffinityTerm"]["labelSelector"]["matchLabels"]
    assert selected.items() <= pod["metadata"]["labels"].items()
    budget = one(manifests, "PodDisruptionBudget", "errata")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, selected)
    assert not [
        each for each in rendered() if (each["kind"], each["metadata"]["name"]) == ("PodDisruptionBudget", "errata")
    ]
    given = rendered(*SEVERAL, "daemon.affinity.nodeAffinity.x=y")
    assert one(given, "StatefulSet", "errata")["spec"]["template"]["spec"]["affinity"] == {"nodeAffinity": {"x": "y"}}


@pytest.mark.parametrize("missing", ["privacyKey", "splitKey", "sessionKey"])
def test_several_daemons_without_a_common_key_are_refused(missing: str) -> None:
    done = helm(*(value for value in SEVERAL if missing not in value))
    assert done.returncode != 0
    assert f"secrets.keys.{missing}" in done.stderr


def test_several_daemons_on_sqlite_are_refused() -> None:
    done = helm(*SEVERAL, "config.store.url=sqlite:////var/lib/erratad/erratad.sqlite3")
    assert done.returncode != 0
    assert "/config/store/url" in done.stderr


def test_kafkas_certificate_authority_is_mounted_where_the_configuration_reads_it() -> None:
    manifests = rendered(*CA)
    kafka = config_of(manifests).intake.kafka
    assert kafka is not None
    [mount] = [mount for mount in container(manifests, "errata")["volumeMounts"] if mount["name"] == "ca"]
    assert str(kafka.ssl_cafile).startswith(mount["mountPath"])
    volumes = one(manifests, "StatefulSet", "errata")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "ca", "secret": {"secretName": "kafka-ca"}} in volumes


def test_compiled_kernels_stay_on_a_claim_of_each_server() -> None:
    manifests = rendered(*CACHE)
    [claim] = one(manifests, "StatefulSet", "errata-vllm")["spec"]["volumeClaimTemplates"]
    assert (claim["metadata"]["name"], claim["spec"]["storageClassName"]) == ("cache", "fast")
    mounts = container(manifests, "errata-vllm")["volumeMounts"]
    assert [mount["name"] for mount in mounts if mount["mountPath"] == "/var/cache/erratad"] == ["cache"]


def volumes(manifests: list[dict[str, Any]], name: str) -> dict[str, str]:
    """The claims of the pod, by the paths of its container."""
    spec = one(manifests, "StatefulSet", name)["spec"]["template"]["spec"]
    claims = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in spec["volumes"]}
    mounts = {mount["mountPath"]: claims.get(mount["name"]) for mount in container(manifests, name)["volumeMounts"]}
    return {path: claim for path, claim in mounts.items() if claim}


def egress(manifests: list[dict[str, Any]], name: str) -> set[int]:
    """The ports that a policy lets its pods reach anywhere."""
    rules = one(manifests, "NetworkPolicy", name)["spec"]["egress"]
    return {port["port"] for rule in rules if "to" not in rule for port in rule["ports"]}


def test_the_job_that_trains_is_made_of_the_charts_values_and_sees_the_daemons_folders() -> None:
    manifests = rendered(*JOBS)
    config = config_of(manifests)
    jobs = config.training.kubernetes
    assert (config.training.runner, jobs.namespace, jobs.name_prefix) == ("kubernetes", "chat", "errata")
    assert jobs.image == container(manifests, "errata")["image"]
    assert (jobs.queue, jobs.priority_class, jobs.ttl_s) == ("gpus", "batch", 600)
    assert jobs.resources.limits == {"memory": "32Gi", "nvidia.com/gpu": "1"}
    assert jobs.node_selector == {"gpu": "a100"}
    assert jobs.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert jobs.image_pull_secrets == ["registry"]
    assert {claim.path: claim.claim for claim in jobs.claims} == volumes(manifests, "errata")
    [model] = [claim for claim in jobs.claims if claim.path == str(config.model.path)]
    assert (model.sub_path, model.read_only) == ("qwen3-8b", True)
    assert {str(config.adapters_dir), str(config.data_dir / "runs")} <= {claim.path for claim in jobs.claims}
    assert one(manifests, "PersistentVolumeClaim", "errata-runs")["spec"]["accessModes"] == ["ReadWriteMany"]
    own = rendered(*JOBS, "training.kubernetes.image=registry.example.org/trainer:2")
    assert config_of(own).training.kubernetes.image == "registry.example.org/trainer:2"


def test_the_daemon_has_the_rights_that_it_needs_for_jobs_and_no_other_pod_has_any() -> None:
    manifests = rendered(*JOBS)
    assert one(manifests, "Role", "errata-trainer")["rules"] == RULES
    binding = one(manifests, "RoleBinding", "errata-trainer")
    assert binding["roleRef"]["name"] == "errata-trainer"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "errata", "namespace": "chat"}]
    pods = {name: one(manifests, "StatefulSet", name)["spec"]["template"]["spec"] for name in ("errata", "errata-vllm")}
    assert {name: pod["automountServiceAccountToken"] for name, pod in pods.items()} == {
        "errata": True,
        "errata-vllm": False,
    }
    trainers = config_of(manifests).training.kubernetes.service_account
    assert trainers is not None
    assert one(manifests, "ServiceAccount", trainers)["automountServiceAccountToken"] is False
    assert trainers != binding["subjects"][0]["name"]
    assert {443, 6443} <= egress(manifests, "errata")


def test_the_policy_for_trainers_selects_the_pods_of_the_job_and_lets_them_reach_nothing() -> None:
    manifests = rendered(*JOBS)
    policy = one(manifests, "NetworkPolicy", "errata-trainer")["spec"]
    made = kubernetes_runner.manifest(config_of(manifests).training.kubernetes, TRAINING_JOB, "errata-1-abc-1")
    assert policy["podSelector"]["matchLabels"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert (policy["ingress"], policy["egress"]) == ([], [])


@pytest.mark.parametrize(
    ("values", "memory", "rights"),
    [((), "16Gi", 0), (RAY, "4Gi", 0), (JOBS, "4Gi", 1), ((*JOBS, "daemon.resources.limits.memory=6Gi"), "6Gi", 1)],
    ids=["local", "ray", "jobs", "given"],
)
def test_a_daemon_whose_training_is_elsewhere_is_small(values: tuple[str, ...], memory: str, rights: int) -> None:
    manifests = rendered(*values)
    assert container(manifests, "errata")["resources"]["limits"] == {"memory": memory}
    assert len([each for each in manifests if each["kind"] in {"Role", "RoleBinding"}]) == 2 * rights


def test_a_ray_cluster_is_reached_with_its_token_and_sees_the_runs() -> None:
    manifests = rendered(*RAY, "secrets.keys.rayToken=ray-token")
    training = config_of(manifests).training
    assert (training.runner, training.ray.address, training.ray.workers) == ("ray", "http://ray-head:8266", 4)
    given = {env["name"]: env for env in container(manifests, "errata")["env"]}
    assert given["RAY_AUTH_MODE"]["value"] == "token"
    assert given["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "erratad", "key": "ray-token"}
    assert 8266 in egress(manifests, "errata")
    assert volumes(manifests, "errata")["/var/lib/erratad/runs"] == "errata-runs"
    without = rendered(*RAY, "training.ray.address=https://ray.example.org")
    assert 443 in egress(without, "errata")
    assert not [env for env in container(without, "errata")["env"] if env["name"].startswith("RAY_")]


def test_with_a_store_of_adapters_servers_mount_no_shared_disk_and_reach_the_store_alone() -> None:
    manifests = rendered(*STORE)
    store = config_of(manifests).serving.adapter_store
    assert store is not None
    assert (store.url, store.options) == ("s3://models/erratad", {"region": "eu-central-1"})
    for name in ("errata", "errata-vllm"):
        [env] = [each for each in container(manifests, name)["env"] if each["name"] == store.options_env]
        assert env["valueFrom"]["secretKeyRef"] == {"name": "erratad", "key": "store-options"}
        assert 9000 in egress(manifests, name)
    assert egress(manifests, "errata-vllm") == {53, 9000}
    assert "/var/lib/erratad/adapters" not in {
        mount["mountPath"] for mount in container(manifests, "errata-vllm")["volumeMounts"]
    }
    caches = [mount["mountPath"] for mount in container(manifests, "errata-vllm")["volumeMounts"]]
    assert any(str(store.cache_dir).startswith(path) for path in caches)
    by_role = rendered(*STORE[:-1])
    assert not [env for env in container(by_role, "errata")["env"] if "STORE" in env["name"]]


def test_where_training_runs_restarts_no_server() -> None:
    def checksum(*values: str) -> str:
        template = one(rendered(*values), "StatefulSet", "errata-vllm")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("training.runner=kubernetes") == checksum(*RAY)
    assert checksum() != checksum("config.training.rank=32")


def test_the_ingress_leads_each_host_to_its_service() -> None:
    ingress = one(rendered(*INGRESS, "ingress.className=nginx"), "Ingress", "errata")["spec"]
    leads = {rule["host"]: rule["http"]["paths"][0]["backend"]["service"]["name"] for rule in ingress["rules"]}
    assert leads == {"errata.example.org": "errata", "model.example.org": "errata-vllm"}
    assert ingress["ingressClassName"] == "nginx"
    [only] = one(rendered(*INGRESS, "ingress.hosts.model="), "Ingress", "errata")["spec"]["rules"]
    assert only["host"] == "errata.example.org"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("ingress.enabled=true",), "ingress.hosts: name a host"),
        ((*INGRESS, "secrets.keys.vllmApiKey="), "vllmApiKey"),
    ],
)
def test_an_ingress_without_a_host_or_to_an_open_model_is_refused(values: tuple[str, ...], said: str) -> None:
    done = helm(*values)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("daemon.replicas=0", "/daemon/replicas"),
        ("model.download.enabled=true", "/model/download/repository"),
        ("model.download.repository=https://hub/Qwen", "/model/download/repository"),
        ("vllm.cache.size=much", "/vllm/cache/size"),
        ("ingress.hosts.daemon=https://errata", "/ingress/hosts/daemon"),
        ("vllm.replicas=0", "/vllm/replicas"),
        ("training.runner=slurm", "/training/runner"),
        ("training.runner=ray", "/training/ray/address"),
        ("training.kubernetes.resources.limits.gpu=true", "/training/kubernetes/resources/limits/gpu"),
        ("config.training.runner=ray", "/config/training"),
        ("config.training.kubernetes.image=erratad", "/config/training"),
        ("config.serving.adapter_store.url=s3://models", "/config/serving"),
        ("adapterStore.url=s3://key:secret@models", "/adapterStore/url"),
        ("vllm.replica=2", "additional properties 'replica'"),
        ("config.serving.mode=managed", "/config/serving"),
        ("config.store.url=postgresql://erratad:secret@db/erratad", "/config/store/url"),
        ("adapters.size=much", "/adapters/size"),
        ("secrets.keys.adminToken=", "/secrets/keys/adminToken"),
        ("networkPolicy.clients[0].podSelector=null", "/networkPolicy/clients/0"),
        ("networkPolicy.clients[0].namespaceSelector.matchLabels.name=chat", "podSelector"),
        ("networkPolicy.prometheus[0].ipBlock.cidr=0.0.0.0/0", "/networkPolicy/prometheus/0"),
        ("networkPolicy.operators[0].podSelector.matchLabels=null", "/networkPolicy/operators/0"),
    ],
)
def test_wrong_values_are_refused_with_their_name(value: str, said: str) -> None:
    done = helm(value)
    assert done.returncode != 0
    assert said in done.stderr


def test_chart_image_and_changelog_are_of_the_wheels_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    assert container(rendered(), "errata")["image"] == f"erratad:{__version__}"
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^ARG VERSION=(\S+)$", dockerfile, re.MULTILINE) == [__version__]
    sections = re.findall(r"^## (.+)$", (DEPLOY.parent / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", sections[1])
