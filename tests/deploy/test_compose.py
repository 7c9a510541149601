"""The compose files, by the specification's schema; what it cannot see is asserted here."""

from __future__ import annotations

import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.config import load_config
from tests.fixtures.deploy import DEPLOY, checked, tool

COMPOSE = DEPLOY / "compose" / "compose.yaml"


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


def test_compose_makes_the_topics_of_further_sources_too() -> None:
    service = yaml.safe_load(COMPOSE.read_text())["services"]["kafka-topics"]
    assert service["environment"]["SOURCE_TOPICS"] == "${ERRATAD_SOURCE_TOPICS:-}"
    assert "$$SOURCE_TOPICS; do" in service["command"][0]


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


def one(manifests: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def test_compose_names_its_own_targets_for_every_file_that_prometheus_reads() -> None:
    here, there = (
        {path.name: yaml.safe_load(path.read_text()) for path in (DEPLOY / folder / "targets").glob("*.yml")}
        for folder in ("compose", "prometheus")
    )
    assert set(here) == set(there)
    services = set(compose()["services"])
    for groups in here.values():
        assert {target.partition(":")[0] for group in groups for target in group["targets"]} <= services
