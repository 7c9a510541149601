"""What deploy/ holds is valid for the tools that read it; no container engine is needed.

The tools are real (hadolint, shellcheck, Helm, systemd, the schemas of Compose and Kubernetes); what they cannot see,
e.g. that daemon and servers look at the same adapters, is asserted here.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from daemon import __version__
from daemon.config import Config, load_config
from tests.fixtures.required import unavailable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
CHART = DEPLOY / "helm" / "erratad"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
KUBERNETES = ("1.27.0", "1.37.0")
"""The oldest version that Chart.yaml allows, and the newest one known here."""
OPERATOR_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""The Prometheus operator's: not among Kubernetes' own schemas."""
MONITORING = ("monitoring.serviceMonitor.enabled=true", "monitoring.prometheusRule.enabled=true")


def tool(name: str) -> str:
    found = BIN / name if (BIN / name).exists() else shutil.which(name)
    if found is None:
        unavailable(f"{name} is not installed; make setup installs it (systemd-analyze: apt install systemd)")
    return str(found)


def checked(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- image ---


def test_the_dockerfile_passes_hadolint() -> None:
    checked(tool("hadolint"), DEPLOY / "docker" / "Dockerfile")


def test_every_shell_script_passes_shellcheck() -> None:
    checked(tool("shellcheck"), *sorted(DEPLOY.rglob("*.sh")), ROOT / ".ci" / "run")


def test_the_image_is_pinned_and_does_not_run_as_root() -> None:
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    stages = [found.groups() for line in lines if (found := re.match(r"FROM (\S+) AS (\S+)$", line))]
    named = {name for _, name in stages}
    outside = [image for image, _ in stages if image not in named]
    assert outside == [image for image in outside if re.search(r":\d+\.\d+\.\d+-", image)]
    for target in ("cpu", "gpu"):
        start = lines.index(f"FROM runtime AS {target}")
        body = lines[start : next((n for n, line in enumerate(lines[start + 1 :], start + 1) if "FROM" in line), None)]
        assert [line for line in body if line.strip()][-1] == "USER 10001:10001", target


def copied_by_the_dockerfile() -> Iterator[str]:
    for line in (DEPLOY / "docker" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            yield from sources


def test_all_that_the_image_copies_is_in_the_context_and_little_else(build_context: Path) -> None:
    assert [source for source in copied_by_the_dockerfile() if not (build_context / source).exists()] == []
    assert not {"tests", ".git", "var", ".venv"} & {path.name for path in build_context.iterdir()}
    assert not (build_context / "deploy" / "compose").exists()


def test_the_entry_point_takes_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "erratad").write_text('#!/bin/sh\necho "$ERRATAD_HTTP_TOKEN/${ERRATAD_HTTP_TOKEN_FILE-gone}/$*"\n')
    (tmp_path / "erratad").chmod(0o755)
    secret = tmp_path / "token"
    secret.write_text("a b'$x\n")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "ERRATAD_HTTP_TOKEN_FILE": str(secret)}
    entry = str(DEPLOY / "docker" / "entrypoint.sh")
    done = subprocess.run([entry, "run"], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "a b'$x/gone/run\n"
    secret.unlink()
    missing = subprocess.run([entry, "run"], env=environment, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "ERRATAD_HTTP_TOKEN_FILE" in missing.stderr


# --- compose ---


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def mounts(service: str) -> dict[str, tuple[str, bool]]:
    """Where in the container -> (what, read-only)."""
    found = {}
    for volume in compose()["services"][service]["volumes"]:
        what, where, *mode = re.sub(r"\$\{[^}]*\}", "MODEL", volume).split(":")
        found[where] = (what, mode == ["ro"])
    return found


def test_the_compose_files_follow_the_compose_specification() -> None:
    checked(
        tool("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        COMPOSE,
        COMPOSE.parent / "compose.gpu.yaml",
    )


@pytest.mark.parametrize("service", sorted(compose()["services"]))
def test_a_compose_service_is_pinned_checked_limited_and_private(service: str) -> None:
    one = compose()["services"][service]
    assert one.get("build") or re.search(r":v?\d+\.\d+\.\d+|:\d+\.\d+-", one["image"]), "a pinned image"
    assert one["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert one["cap_drop"] == ["ALL"]
    assert "healthcheck" in one or one["restart"] == "no", "what runs on has a health check"
    assert all(port.startswith("127.0.0.1:") for port in one.get("ports", []))
    assert not any(re.search(r"PASSWORD$|TOKEN$|KEY$", name) for name in one.get("environment", {}))


def test_compose_waits_for_what_it_needs() -> None:
    needs = compose()["services"]["erratad"]["depends_on"]
    assert {name: need["condition"] for name, need in needs.items()} == {
        "postgres": "service_healthy",
        "kafka-topics": "service_completed_successfully",
        "vllm": "service_healthy",
    }


def test_in_compose_daemon_and_vllm_see_the_same_adapters_and_model() -> None:
    daemon, vllm = mounts("erratad"), mounts("vllm")
    config = load_config(COMPOSE.parent / "erratad.yaml")
    assert daemon[str(config.adapters_dir)] == ("adapters", False)
    assert vllm[str(config.adapters_dir)] == ("adapters", True)
    assert daemon[str(config.model.path)] == vllm[str(config.model.path)] == ("MODEL", True)
    assert config.serving.urls == ["http://vllm:8000"]


def test_every_file_and_volume_that_compose_mounts_is_there() -> None:
    declared = compose()
    for service in declared["services"]:
        if "volumes" not in declared["services"][service]:
            continue
        for what, _ in mounts(service).values():
            if what.startswith("./"):
                assert (COMPOSE.parent / what).exists(), what
            elif not what.startswith("..") and what != "MODEL":
                assert what in declared["volumes"], what


def test_compose_hands_over_every_secret_that_the_configuration_names() -> None:
    config = load_config(COMPOSE.parent / "erratad.yaml")
    variables = {config.store.password_env, config.serving.api_key_env, config.serving.admin_token_env}
    variables |= {config.http.token_env}
    given = compose()["services"]["erratad"]["environment"]
    assert {f"{variable}_FILE" for variable in variables} == set(given)
    assert {Path(path).name for path in given.values()} == set(compose()["services"]["erratad"]["secrets"])


def test_secrets_are_made_once_each_another_and_closed_to_others(tmp_path: Path) -> None:
    script = Path(shutil.copy(COMPOSE.parent / "secrets.sh", tmp_path))
    checked(script)
    folder = tmp_path / "secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(first) == set(compose()["secrets"])
    assert len(set(first.values())) == len(first)
    assert min(map(len, first.values())) >= 32
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    checked(script)
    assert first == {path.name: path.read_text() for path in folder.iterdir()}


# --- Helm ---


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
    ],
    ids=["defaults", "monitoring", "least", "gpu"],
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


def test_another_number_of_replicas_restarts_neither_servers_nor_daemon() -> None:
    def checksum(count: int, name: str) -> str:
        template = one(rendered(f"vllm.replicas={count}"), "StatefulSet", name)["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum(2, "errata-vllm") == checksum(5, "errata-vllm")
    assert checksum(2, "errata") == checksum(5, "errata")


def test_the_chart_ships_the_rules_that_prometheus_loads_elsewhere(tmp_path: Path) -> None:
    files = [yaml.safe_load(path.read_text()) for path in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))]
    spec = one(rendered(*MONITORING), "PrometheusRule", "errata")["spec"]
    assert spec["groups"] == [group for file in files for group in file["groups"]]
    assert any("alert" in rule for group in spec["groups"] for rule in group["rules"])
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(spec))
    checked(tool("promtool"), "check", "rules", rules)


def test_the_service_monitor_scrapes_the_jobs_that_the_rules_ask_for() -> None:
    manifests = rendered(*MONITORING)
    spec = one(manifests, "ServiceMonitor", "errata")["spec"]
    [among] = spec["selector"]["matchExpressions"]
    services = [each for each in manifests if each["kind"] == "Service"]
    scraped = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in services}
    assert set(among["values"]) == {"daemon", "vllm-replicas"} <= set(scraped)
    [endpoint] = spec["endpoints"]
    assert all(scraped[name]["spec"]["ports"][0]["name"] == endpoint["port"] for name in among["values"])
    jobs = {rule["replacement"] for rule in endpoint["relabelings"]}
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert jobs == {job["job_name"] for job in scrape}


def test_compose_names_its_own_targets_for_every_file_that_prometheus_reads() -> None:
    here, there = (
        {path.name: yaml.safe_load(path.read_text()) for path in (DEPLOY / folder / "targets").glob("*.yml")}
        for folder in ("compose", "prometheus")
    )
    assert set(here) == set(there)
    services = set(compose()["services"])
    for groups in here.values():
        assert {target.partition(":")[0] for group in groups for target in group["targets"]} <= services


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("vllm.replicas=0", "/vllm/replicas"),
        ("vllm.replica=2", "additional properties 'replica'"),
        ("config.serving.mode=managed", "/config/serving"),
        ("config.store.url=postgresql://erratad:secret@db/erratad", "/config/store/url"),
        ("adapters.size=much", "/adapters/size"),
        ("secrets.keys.adminToken=", "/secrets/keys/adminToken"),
    ],
)
def test_wrong_values_are_refused_with_their_name(value: str, said: str) -> None:
    done = helm(value)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_chart_is_of_this_version() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


# --- systemd ---


@pytest.fixture(params=["erratad.service", "erratad-vllm@.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    path = tmp_path / request.param
    path.write_text((DEPLOY / "systemd" / request.param).read_text().replace("/opt/erratad/bin/erratad", "/bin/true"))
    return path


def test_systemd_takes_the_units_without_a_warning(unit: Path) -> None:
    done = subprocess.run([tool("systemd-analyze"), "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_are_hardened(unit: Path) -> None:
    checked(tool("systemd-analyze"), "security", "--offline=true", "--threshold=25", unit)


def test_the_units_environment_example_names_the_variables_of_the_production_configuration() -> None:
    text = (DEPLOY / "systemd" / "erratad.env.example").read_text()
    production = (ROOT / "configs" / "production.yaml").read_text()
    assert set(re.findall(r"_env: (\w+)", production)) <= set(re.findall(r"^#?(\w+)=", text, re.MULTILINE))
