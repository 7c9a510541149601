"""What deploy/ says of metrics: alerts with tests and runbook, Alertmanager, dashboards; and that series are few."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

from connectors.messages import MessageRejected
from daemon import metrics
from daemon.cli.app import app
from daemon.config import Config
from daemon.config.intake import IntakeConfig
from daemon.config.serving import ServingConfig
from daemon.intake.stage import FeedbackIntake
from daemon.operations.gauges import GaugesStage
from daemon.operations.stages import STAGES
from daemon.promotion import stage as promotion
from daemon.records import CorrectionSource, Trigger
from daemon.reflection.anew import KEPT, LATE, RENEWED, RETURNED
from daemon.reflection.stage import AttemptOutcome
from daemon.store import Added, Store
from tests.fixtures.config import flagged, trusting
from tests.fixtures.dcgm import DCGM_METRICS
from tests.fixtures.life import life
from tests.fixtures.prometheus import run_tool
from tests.fixtures.reflection import ReflectionBench
from tests.fixtures.stores import promote

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
ALERT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = (DEPLOY.parent / "docs" / "runbook.md").read_text()
PROCESS_METRICS = {family.name for family in REGISTRY.collect() if family.name.startswith(("process_", "python_"))}
OPEN_LABELS = {"topic", "partition", "stage", "kind"}
"""Labels bounded by what is deployed: partitions of the topic, stages, kinds of examples."""


def rules() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
TESTED = [
    test
    for path in ALERT_TESTS
    for group in yaml.safe_load(path.read_text())["tests"]
    for test in group["alert_rule_test"]
]


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            yield from (target["expr"] for target in panel.get("targets", ()))
        yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])


# --- alerts ---


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_what_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    base = '{{ or $externalLabels.runbook_base_url "docs/runbook.md" }}'
    assert alert["annotations"]["runbook_url"] == f"{base}#{name.lower()}"
    named = (
        "{{ with $labels.release }}" if name == "ErratadNoTarget" else "{{ $labels.release }} ({{ $labels.model }}): "
    )
    assert alert["annotations"]["summary"].startswith(named)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_keeps_releases_apart(rule: dict[str, Any]) -> None:
    """By the labels that the scrape configuration gives every series."""
    grouped = re.findall(r"\b(by|on) \(([^)]*)\)", rule["expr"])
    for word, labels in grouped:
        kept = {"namespace", "release", "model"} if word == "by" else {"namespace", "release"}
        assert kept <= set(labels.split(", ")), rule["expr"]
    merging = re.findall(r"(?<!:)\b(?:sum|max|min|avg|count|group)\b", rule["expr"])
    assert len(merging) == sum(word == "by" for word, _ in grouped)
    assert "without" not in rule["expr"]
    assert "ignoring" not in rule["expr"]


def test_an_alert_fires_for_the_ill_release_only() -> None:
    checked = 0
    for path in ALERT_TESTS:
        for group in yaml.safe_load(path.read_text())["tests"]:
            fires = any(test["exp_alerts"] for test in group["alert_rule_test"])
            if not fires or group["name"] == "ErratadNoTarget fires":  # it is about all of them
                continue
            checked += 1
            watched = {
                release for one in group["input_series"] for release in re.findall(r'release="(\w+)"', one["series"])
            }
            assert watched == {"town", "village"}, group["name"]
            found = [alert["exp_labels"] for test in group["alert_rule_test"] for alert in test["exp_alerts"]]
            assert {(labels["release"], labels["model"]) for labels in found} == {("town", "small")}
    assert checked >= len(ALERTS) - 1


@pytest.mark.parametrize("folder", ["prometheus", "compose"])
@pytest.mark.parametrize("job", ["erratad", "vllm"])
def test_targets_have_the_labels_that_tell_releases_apart(folder: str, job: str) -> None:
    groups = yaml.safe_load((DEPLOY / folder / "targets" / f"{job}.yml").read_text())
    assert [set(group["labels"]) for group in groups] == [{"release", "model"}]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_page_in_the_runbook(name: str) -> None:
    _, found, page = RUNBOOK.partition(f"\n### {name}\n")
    assert found
    page = page.partition("\n#")[0]
    for part in ("**Meaning.**", "**Look here.**", "**Do this.**"):
        assert page.count(part) == 1


def test_the_runbook_has_no_page_of_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_test_that_fires_and_one_that_stays_silent(name: str) -> None:
    fires = Counter(bool(test["exp_alerts"]) for test in TESTED if test["alertname"] == name)
    assert fires[True] >= 1
    assert fires[False] >= 1


def test_alerts_fire_and_stay_silent_as_their_tests_say() -> None:
    tested = run_tool("promtool", "test", "rules", *ALERT_TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_prometheus_takes_the_configuration() -> None:
    checked = run_tool("promtool", "check", "config", "--lint-fatal", DEPLOY / "prometheus" / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(RULES)} rule files found" in checked.stdout


def test_alertmanager_takes_the_configuration_and_routes_by_severity() -> None:
    config = DEPLOY / "alertmanager" / "alertmanager.yml"
    checked = run_tool("amtool", "check-config", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for severity, receiver in (("critical", "on-call"), ("warning", "team")):
        routed = run_tool("amtool", "config", "routes", "test", f"--config.file={config}", f"severity={severity}")
        assert routed.stdout.split() == [receiver]


def test_alertmanager_names_alerts_that_exist() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    matchers = [
        matcher for rule in config["inhibit_rules"] for matcher in rule["source_matchers"] + rule["target_matchers"]
    ]
    assert {name for matcher in matchers for name in re.findall(r"Erratad\w+", matcher)} <= set(ALERTS)


def test_alertmanager_groups_and_inhibits_within_a_release() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    assert {"namespace", "release"} <= set(config["route"]["group_by"])
    for rule in config["inhibit_rules"]:
        if rule["source_matchers"] != ['alertname="ErratadNoTarget"']:  # it is about all of them
            assert {"namespace", "release"} <= set(rule["equal"])


# --- runbook ---


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for sub_name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{name} {sub_name}")


def test_the_runbook_gives_commands_that_exist() -> None:
    known = dict(commands(get_command(app), "erratad"))
    given = re.findall(r"`(erratad(?: [a-z-]+)?)((?: [^`]*)?)`", RUNBOOK)
    assert len(given) > 40
    for name, arguments in given:
        assert name in known, name
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options, (name, arguments)
        if name in {"erratad pause", "erratad resume"} and arguments.strip():
            assert arguments.split()[0] in {*STAGES, "STAGE", "all"}, arguments


def test_the_runbook_names_configuration_keys_that_exist() -> None:
    def keys(model: Any, prefix: str = "") -> Iterator[str]:
        for name, field in model.model_fields.items():
            yield f"{prefix}{name}"
            for section in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if hasattr(section, "model_fields"):
                    yield from keys(section, f"{prefix}{name}.")

    sections = "|".join(Config.model_fields)
    named = set(re.findall(rf"`((?:{sections})\.[a-z_.]+)", RUNBOOK))
    assert len(named) > 15
    assert named - set(keys(Config)) == set()


def test_links_of_the_runbook_lead_somewhere() -> None:
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)}
    assert set(re.findall(r"\(#([a-z-]+)\)", RUNBOOK)) <= anchors


# --- metrics ---


def declared() -> list[MetricWrapperBase]:
    return [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]


def exported_names() -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}
    families = [metric.describe()[0] for metric in declared()]
    recorded = (Path(__file__).parent / "fakes" / "vllm_metrics.txt").read_text()
    return (
        {f"{family.name}{suffix}" for family in families for suffix in suffixes[family.type]}
        | {rule["record"] for rule in rules() if "record" in rule}
        | set(re.findall(r"^(vllm:\w+)", recorded, re.MULTILINE))
        | {f"erratad_request_duration_seconds_{part}" for part in ("bucket", "sum", "count")}  # the vLLM plugin's
        | set(DCGM_METRICS)
        | PROCESS_METRICS
        | {"process_cpu_seconds_total"}
    )


def test_rules_and_dashboards_use_metrics_that_exist() -> None:
    mine = re.compile(r"\b(?:erratad_|vllm:|DCGM_|process_|python_|release:|instance:|release_\w+:)[\w:]+")
    used = {name for expression in expressions() for name in mine.findall(expression)}
    assert len(used) > 50
    assert used - exported_names() == set()


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    text = "\n".join(expressions())
    families = [metric.describe()[0].name for metric in declared()]
    assert {name for name in families if name not in text} == set()


def test_rules_and_dashboards_select_values_that_exist() -> None:
    closed = {metric.describe()[0].name: sets for metric, sets in metrics.CLOSED_SETS.items()}
    checked = 0
    for expression in expressions():
        for name, selector in re.findall(r"(erratad_\w+)\{([^}]+)\}", expression):
            sets = closed.get(re.sub(r"_(total|bucket|sum|count)$", "", name), {"stage": STAGES})
            for label, values in re.findall(r'(\w+)[!=~]+"([^"$]*)"', selector):  # without the dashboards' variables
                checked += 1
                assert set(values.split("|")) <= set(sets[label]), f"{name}{{{selector}}}"
    assert checked > 15


def test_closed_sets_hold_what_the_code_says() -> None:
    """Those that metrics.py cannot import."""
    assert set(metrics.CLOSED_SETS[metrics.REFLECTIONS]["outcome"]) == {*AttemptOutcome, RENEWED, KEPT, RETURNED, LATE}
    assert set(Added) <= set(metrics.CLOSED_SETS[metrics.INTAKE_MESSAGES]["outcome"])
    assert set(CorrectionSource) < set(metrics.CLOSED_SETS[metrics.LESSONS]["correction"])
    assert Trigger.MANUAL not in metrics.CLOSED_SETS[metrics.SCHEDULE_MIN_LESSONS]["trigger"]


def test_values_of_labels_are_names_and_no_sentences() -> None:
    values = {value for sets in metrics.CLOSED_SETS.values() for of_label in sets.values() for value in of_label}
    assert [value for value in values if not re.fullmatch(r"[a-z0-9]+([_.-][a-z0-9]+)*", value)] == []


def test_labels_are_closed_or_bounded_by_what_is_deployed() -> None:
    for metric in declared():
        labels = set(metric._labelnames)
        closed = set(metrics.CLOSED_SETS.get(metric, {}))
        assert labels == closed or labels <= OPEN_LABELS, metric


def test_a_counter_has_all_its_series_before_anything_happens() -> None:
    code = "import daemon.metrics; from prometheus_client import generate_latest; print(generate_latest().decode())"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for metric, sets in metrics.CLOSED_SETS.items():
        family = metric.describe()[0]
        if family.type == "counter":
            expected = 1
            for values in sets.values():
                expected *= len(values)
            assert len(re.findall(rf"^{family.name}_total\{{", text, re.MULTILINE)) == expected, family.name


def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name.startswith("erratad_")
    }


def test_series_stay_bounded_whatever_users_send(make_reflection: Any, sqlite_store: Store, tmp_path: Path) -> None:
    """Generations, reporters, categories, models and tenants come and go; none of them becomes a label."""
    bench: ReflectionBench = make_reflection(analyst=None)
    intake = FeedbackIntake(reports=sqlite_store.reports, config=IntakeConfig())
    gauges = GaugesStage(
        store=sqlite_store, policy=trusting(), serving=ServingConfig(), data_dir=tmp_path, stages=list(STAGES)
    )

    def live_through(generation: int) -> int:
        for number in range(20):
            name = f"{generation}-{number}"
            report = flagged(
                reporter=name, category=f"category-{name}", model=f"aligned-g{generation:06d}", tenant=name
            )
            intake.submit(report.model_dump_json(exclude_none=True).encode(), principal=name)
        with pytest.raises(MessageRejected):
            intake.submit(f"garbage {generation}".encode(), principal="garbage")
        bench.step()
        promote(sqlite_store)
        promotion._show(sqlite_store.adapters.live())
        gauges.step(life())
        return len(series())

    counts = [live_through(generation) for generation in range(1, 13)]
    # the first two make the roles "live" and "previous" exist
    assert set(counts[2:]) == {counts[2]}
    assert counts[2] < 1000
    assert sum(name == "erratad_live_adapter_info" for name, _ in series()) == 1


# --- dashboards ---


def test_the_dashboards_are_what_their_script_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEPLOY / "grafana" / "dashboards.py", tmp_path], check=True)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in DASHBOARDS}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_what_grafana_needs(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["schemaVersion"] == 41
    assert re.fullmatch(r"erratad-[a-z]{5,32}", dashboard["uid"])
    source, *chosen = dashboard["templating"]["list"]
    assert (source["type"], source["name"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [variable["name"] for variable in chosen] == ["namespace", "release", "model"]
    assert {variable["type"] for variable in chosen} == {"query"}
    assert [annotation["name"] for annotation in dashboard["annotations"]["list"]] == ["Promotions", "Rollbacks"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) > 9
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_no_key_that_is_not_in_the_schema_of_grafana(path: Path) -> None:
    """Its types, read and written again, keep everything; the SDK lacks two keys of annotations, and adds defaults."""
    register_default_plugins()
    dashboard = json.loads(path.read_text())
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))

    def lost(here: Any, there: Any, where: str) -> Iterator[str]:
        if isinstance(here, dict):
            for key, value in here.items():
                yield from lost(value, there[key], f"{where}.{key}") if key in there else [f"{where}.{key}"]
        elif isinstance(here, list):
            assert len(here) == len(there)
            for number, (value, kept) in enumerate(zip(here, there, strict=True)):
                yield from lost(value, kept, f"{where}[{number}]")
        elif here != there and here is not None:
            yield where

    annotations = {
        f"dashboard.annotations.list[{number}].{key}" for number in range(2) for key in ("step", "titleFormat")
    }
    assert set(lost(dashboard, again, "dashboard")) == annotations


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_shows_the_chosen_release_only(path: Path) -> None:
    scope = 'namespace=~"$namespace",release=~"$release",model=~"$model"}'
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", ()):
            series = re.findall(
                r"(?:erratad_|vllm:|process_|DCGM_|release:|instance:|ALERTS|\bup\b)[\w:]*", target["expr"]
            )
            everywhere = "namespace, release, model" in target["expr"]
            assert everywhere or 0 < target["expr"].count(scope) <= len(series), target["expr"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_counters_are_shown_as_rates(path: Path) -> None:
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel.get("targets", ()):
            counters = re.findall(r"\w+_(?:total|sum|count|bucket)\{", target["expr"])
            rates = re.findall(r"(?:rate|increase)\([\w:]+_(?:total|sum|count|bucket)\{", target["expr"])
            assert len(counters) == len(rates), target["expr"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_lie_side_by_side_and_never_on_each_other(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_titles_of_dashboards_and_their_uids_are_unique() -> None:
    dashboards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len(DASHBOARDS) == 4
    assert len({dashboard["uid"] for dashboard in dashboards}) == 4
    assert len({dashboard["title"] for dashboard in dashboards}) == 4


def test_grafana_is_told_where_the_dashboards_and_their_data_are() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    [provider] = yaml.safe_load((provisioning / "dashboards" / "erratad.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
