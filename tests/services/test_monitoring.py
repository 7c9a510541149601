"""Dashboards, rules and metrics against a real Prometheus that watched a real daemon take reports to a fix and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connectors.kafka.consumer import OutboundRecord
from connectors.vllm import VllmServer
from daemon import metrics
from daemon.demo.embedded_broker import EmbeddedBroker
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.broker import kafka_config, send, topics_of
from tests.fixtures.config import distant_cron, flagged
from tests.fixtures.daemons import RunningDaemon
from tests.fixtures.dcgm import dcgm_exposition
from tests.fixtures.healthy import serving_again
from tests.fixtures.http import CLIENT
from tests.fixtures.ports import free_port
from tests.fixtures.prometheus import WATCHED, Prometheus, figures, run_tool, running_prometheus
from tests.fixtures.receiver import Receiver

pytestmark = pytest.mark.timeout(600)  # the first test waits for the whole loop
ROOT = Path(__file__).parents[2]
HOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
TOPICS = (
    "rivers",
    "taxes",
    "chess openings",
    "steam engines",
    "bread",
    "tides",
    "sonnets",
    "glaciers",
    "copper",
    "bees",
)
WRONG = "This response is wrong because the town that it names is not the capital; a good response names the real one."
SEED = {
    "id": "utopia",
    "prompt": "Which town leads the world in ferries?",
    "category": "wrong-fact",
    "checks": {"must_contain": ["Utopia"]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The observations: the daemon's last `/metrics`, and all series of Prometheus since `begun`."""

    prometheus: Prometheus
    exported: str
    begun: float


def answer(model: str, _messages: list[dict[str, Any]]) -> str:
    """The base model errs (and analyses well enough); a trained generation gives the right answer."""
    return "The right answer is Utopia." if model.startswith("aligned-g") else WRONG


@pytest.fixture(scope="module")
def watched(tiny_model: Path, broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Reports over Kafka and HTTP, a promotion and a rollback, seen by Prometheus every second."""
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    with FakeVllm(answer=answer, open_routes=("/metrics",)) as fake, closing(Receiver()) as hook:
        fake.facts_dir = folder / "var" / "chat"
        daemon = _daemon(folder, port, tiny_model, fake, broker, hook)
        targets = {"erratad": f"127.0.0.1:{port}", "vllm": fake.url.removeprefix("http://")}
        # no test has a GPU: the names are NVIDIA's, the values are made up
        with (
            serving_again({"dcgm": dcgm_exposition()}) as gpus,
            running_prometheus(folder / "prometheus", {**targets, **gpus}) as prometheus,
        ):
            daemon.start()
            try:
                # a scrape before the first step of the gauges finds a live adapter without a name
                daemon.until(lambda: "erratad_live_adapter_info{" in CLIENT.get(f"{daemon.url}/metrics").text)
                begun = time.time() + 2
                _play(daemon, fake)
                exported = CLIENT.get(f"{daemon.url}/metrics").text
                yield Watched(prometheus=prometheus, exported=exported, begun=begun)
            finally:
                daemon.kill()


def _daemon(
    folder: Path, port: int, model: Path, fake: FakeVllm, broker: EmbeddedBroker, hook: Receiver
) -> RunningDaemon:
    kafka = kafka_config(broker)
    broker.create_topics(topics_of(kafka))
    reports = [_report(topic) for topic in TOPICS]
    records = [report.model_dump_json(exclude_none=True).encode() for report in reports] + [b"no JSON"]
    send(kafka, *[OutboundRecord(topic=kafka.topic, key=None, value=record) for record in records])
    config = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config |= {"data_dir": str(folder / "var"), "model": {"path": str(model)}}
    config["http"]["port"] = port
    config["intake"] = {"kafka": kafka.model_dump(mode="json", exclude_none=True)}
    config["webhook"] = {"url": hook.url, "secret_env": "HOOK_SECRET"}
    config["schedule"]["cron"] = distant_cron()
    config["reflection"] |= {"analyst": "self", "max_tokens": 64}
    config["dataset"]["recipes"] = {"wrong-fact": "context-distillation"}  # no teacher helps, which is shown, too
    config["training"]["epochs"] = 4
    config["rollout"] = {
        "mode": "canary",
        "share": 0.5,
        "min_requests": 20,
        "min_duration_s": 1,
        "max_duration_s": 10,
        "watch": {"min_requests": 20, "interval_s": 1},
    }
    seeds = folder / "seeds.jsonl"
    seeds.write_text(json.dumps(SEED))
    config["induction"] = {"enabled": True, "cron": distant_cron(), "model": "base", "seeds": str(seeds)}
    config["serving"] |= {"mode": "attached", "urls": [fake.url], "admin_token_env": "FAKE_TOKEN", "port": 8000}
    path = folder / "erratad.yaml"
    path.write_text(yaml.safe_dump(config))
    return RunningDaemon(path, port, {"FAKE_TOKEN": ADMIN_TOKEN, "HOOK_SECRET": HOOK_SECRET})


def _report(topic: str) -> Any:
    prompt = [{"role": "user", "content": f"Which town leads the world in {topic}?"}]
    return flagged(messages=prompt, checks={"must_contain": ["Utopia"]}, correction="It is Utopia.")


def _play(daemon: RunningDaemon, fake: FakeVllm) -> None:
    daemon.until(lambda: _exported(daemon, "erratad_reports", state="lesson") == len(TOPICS))
    assert daemon.post("/v1/feedback", _report("music").model_dump(mode="json", exclude_none=True)).status_code == 202
    daemon.until(lambda: _exported(daemon, "erratad_new_lessons") == len(TOPICS) + 1)
    _ask(fake, 40)
    daemon.post("/api/train", {"reason": "test"})

    def is_live_after_the_canary() -> bool:
        if _exported(daemon, "erratad_run_active", state="promoting") == 1:
            _ask(fake, 10)
        return _exported(daemon, "erratad_live_generation") == 1

    daemon.until(is_live_after_the_canary, poll_s=0.5)
    _ask(fake, 40)
    daemon.until(lambda: _exported(daemon, "erratad_watch_p_value", rate="flagged") is not None)
    daemon.until(lambda: (_exported(daemon, "erratad_generation_lifetime_requests", role="live") or 0) >= 40)
    daemon.post("/api/rollback", {"reason": "test"})
    daemon.until(lambda: _exported(daemon, "erratad_live_generation") == 0)
    daemon.post("/api/induce", {"reason": "test"})
    daemon.until(lambda: (_exported(daemon, "erratad_induced_kept_total", kind="wrong-fact") or 0) >= 1)
    time.sleep(6)  # the gauges stage steps once more, and Prometheus sees it


def _ask(fake: FakeVllm, times: int) -> None:
    with closing(VllmServer(fake.url, api_key=None, admin_token=ADMIN_TOKEN)) as client:
        for _ in range(times):  # each in a conversation of its own
            client.chat("aligned", [{"role": "user", "content": f"hello {time.monotonic_ns()}"}], max_tokens=4)


def _exported(daemon: RunningDaemon, name: str, **labels: str) -> float | None:
    families = text_string_to_metric_families(CLIENT.get(f"{daemon.url}/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return next((one.value for one in samples if (one.name, one.labels) == (name, labels)), None)


def test_promtool_finds_nothing_to_complain_about(watched: Watched) -> None:
    checked = run_tool("promtool", "check", "metrics", given=watched.exported)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_every_label_value_is_of_its_closed_set(watched: Watched) -> None:
    closed = {metric.describe()[0].name: sets for metric, sets in metrics.CLOSED_SETS.items()}
    families = list(text_string_to_metric_families(watched.exported))
    for family in families:
        for sample in family.samples if family.name in closed else ():
            labels = {name: value for name, value in sample.labels.items() if name != "le"}
            for label, value in labels.items():
                assert value in closed[family.name][label], sample
    assert set(closed) <= {family.name for family in families}


def test_every_rule_is_evaluated(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.get("/api/v1/rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 30
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_a_healthy_run_wakes_nobody(watched: Watched) -> None:
    """Only the rollback alert fires; other alerts are at most pending."""
    firing = {series["metric"]["alertname"] for series in watched.prometheus.ask('ALERTS{alertstate="firing"}')}
    assert firing == {"ErratadRolledBack"}


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Panel title and query, of panels and annotations."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], {"expr": annotation["expr"]}


def resolved(expr: str, *, since: float) -> str:
    """With the values that Grafana would put in: the only release, and the time since the beginning."""
    values = {
        "rate_interval": "20s",
        "range": f"{time.time() - since:.0f}s",
        "namespace": ".*",
        "model": ".*",
        **WATCHED,
    }
    for name, value in values.items():
        expr = expr.replace(f"$__{name}", value).replace(f"${name}", value)
    assert "$" not in expr
    return expr


def test_the_variables_find_the_release(watched: Watched) -> None:
    variables = [one for one in json.loads(DASHBOARDS[0].read_text())["templating"]["list"] if one["type"] == "query"]
    found = {}
    for variable in variables:
        series, label = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"])[0]
        series = resolved(series, since=watched.begun)
        found[label] = {one["metric"].get(label) for one in watched.prometheus.ask(series)}
    assert found == {"namespace": {None}, "release": {WATCHED["release"]}, "model": {WATCHED["model"]}}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_returns_data(watched: Watched, path: Path) -> None:
    empty = []
    for title, target in queries(json.loads(path.read_text())):
        query = resolved(target["expr"], since=watched.begun)
        instant = target.get("instant", False)
        series = watched.prometheus.ask(query) if instant else watched.prometheus.ask_since(query, watched.begun)
        if not figures(series):
            empty.append(f"{title}: {query}")
    assert empty == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_legends_name_labels_that_the_query_returns(watched: Watched, path: Path) -> None:
    for title, target in queries(json.loads(path.read_text())):
        wanted = {part.partition("}}")[0] for part in target.get("legendFormat", "").split("{{")[1:]}
        query = resolved(target["expr"], since=watched.begun)
        wanted.discard("namespace")  # only Kubernetes has one
        for series in watched.prometheus.ask_since(query, watched.begun):
            assert wanted <= set(series["metric"]), title
