"""The alert drill: causes alerts for real, hears of them from Alertmanager, does what the runbook says, sees them end.

Real daemon, Prometheus, Alertmanager, PostgreSQL and broker; the two vLLM servers are fakes. Rules, routes and commands
are the shipped ones; only their durations are shorter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from connectors.kafka import OutboundRecord, Producer
from connectors.messages import FlaggedResponse
from daemon.config import KafkaConfig
from daemon.embedded_broker import EmbeddedBroker
from daemon.leader import LEASE_NAME
from daemon.ports import free_port
from daemon.records import ReportState
from daemon.store import Store, open_store
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.broker import kafka_config, options_of, require_broker, topics_of
from tests.fixtures.config import flagged
from tests.fixtures.daemons import RunningDaemon
from tests.fixtures.prometheus import DEPLOYED, Alertmanager, Prometheus, running_alertmanager, running_prometheus
from tests.fixtures.receiver import Receiver
from tests.fixtures.stores import PostgresServer, force, promote, running_postgres

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOYED / "rules" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
GOOD = "This response is wrong because the town named is not the capital; the real capital has to be named."
DISK_BYTES = 16 * 2**20
WAIT_S = 240.0
pytestmark = pytest.mark.timeout(900)


@dataclass(kw_only=True)
class Stand:
    """Everything that runs, and whoever is on call."""

    daemon: RunningDaemon
    environment: Mapping[str, str]
    postgres: PostgresServer
    database: str
    broker: EmbeddedBroker
    kafka: KafkaConfig
    fakes: list[FakeVllm]
    hook: Receiver
    """Where the daemon's webhook goes."""
    on_call: Receiver
    """Where Alertmanager's notifications go."""
    prometheus: Prometheus
    alertmanager: Alertmanager
    small_disk: Path | None
    """`data_dir`, where the machine lets a test mount a small file system."""
    fired: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Alerts of this round, with labels that tell the right series."""

    @contextmanager
    def store(self) -> Iterator[Store]:
        with closing(open_store(self.postgres.url(self.database))) as store:
            yield store

    def until(self, holds: Callable[[], object], what: str, *, meanwhile: Callable[[], None] | None = None) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}; the daemon says:\n{self.daemon.log.read_text()[-3000:]}"
            if meanwhile is not None:
                meanwhile()
            time.sleep(0.5)

    def firing(self, alert: str) -> list[Any]:
        labels = "".join(f',{name}="{value}"' for name, value in self.fired[alert].items())
        return self.prometheus.ask(f'ALERTS{{alertname="{alert}",alertstate="firing"{labels}}}')

    def fires(self, *alerts: str, meanwhile: Callable[[], None] | None = None, **labels: str) -> None:
        """Wait until they fire and Alertmanager has them, with all that they say."""
        self.fired |= dict.fromkeys(alerts, labels)
        for alert in alerts:
            self.until(lambda alert=alert: self.firing(alert), f"{alert} does not fire", meanwhile=meanwhile)
            self.until(lambda alert=alert: self._held(alert), f"Alertmanager has no {alert}", meanwhile=meanwhile)
            held = self._held(alert)[0]
            rule = RULES[alert]
            assert held["labels"]["severity"] == rule["labels"]["severity"]
            assert held["annotations"]["runbook_url"] == rule["annotations"]["runbook_url"]
            assert set(held["annotations"]) == set(rule["annotations"])
            said = " ".join(held["annotations"].values())
            assert not re.search(r"<no value>|<error|\{\{|%!", said), said

    def is_told(self, *alerts: str) -> None:
        """Wait until the receiver of the alert's severity was notified."""
        for alert in alerts:
            path = "/on-call" if RULES[alert]["labels"]["severity"] == "critical" else "/team"
            self.until(lambda alert=alert, path=path: (path, "firing") in self._told(alert), f"nobody hears of {alert}")

    def is_spared(self, alert: str) -> None:
        """Alertmanager holds it back because of another one."""
        self.until(
            lambda: {one["status"]["state"] for one in self._held(alert)} == {"suppressed"}, f"{alert} is told, too"
        )

    def all_end(self) -> None:
        """Wait until none of this round's alerts fires and those who were told of one were told that it ended."""
        for alert in self.fired:
            self.until(lambda alert=alert: not self.firing(alert), f"{alert} does not end")
            if self._told(alert):
                self.until(
                    lambda alert=alert: self._told(alert)[-1][1] == "resolved", f"nobody hears that {alert} ended"
                )
        self.fired = {}

    def _held(self, alert: str) -> list[Any]:
        wanted = {"alertname": alert, **self.fired[alert]}.items()
        return [one for one in self.alertmanager.alerts() if wanted <= one["labels"].items()]

    def _told(self, alert: str) -> list[tuple[str, str]]:
        """Receiver and state of each notification."""
        wanted = {"alertname": alert, **self.fired[alert]}.items()
        return [
            (headers[":path"], one["status"])
            for headers, body in self.on_call.received
            for one in json.loads(body)["alerts"]
            if wanted <= one["labels"].items()
        ]

    # --- what an operator does ---

    def follow(self, alert: str, command: str, *, exits: int = 0, **words: str) -> str:
        """Run a command as the runbook's page of the alert has it, `words` put in; returns what it printed."""
        page = RUNBOOK.partition(f"\n### {alert}\n")[2].partition("\n### ")[0]
        assert f"`{command}`" in " ".join(page.split()), f"the page of {alert} does not say: {command}"
        for word, given in words.items():
            command = command.replace(word, given)
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *shlex.split(command)[1:]],
            env={**os.environ, **self.environment, "ERRATAD_CONFIG": str(self.daemon.config_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == exits, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    # --- what others do ---

    def end_broker(self) -> None:
        self.broker.kill()  # the one that runs now: a test may have put another in its place

    def send_reports(self, count: int) -> list[str]:
        reports = [flagged(reporter=f"reporter-{time.monotonic_ns()}-{number}") for number in range(count)]
        for report in reports:
            self.until(lambda report=report: self._taken(report), f"{report.id} is not taken in")
        return [report.id for report in reports]

    def _taken(self, report: FlaggedResponse) -> bool:
        """As a sender does it: without an answer the same report is sent again."""
        try:
            answer = self.daemon.post("/v1/feedback", report.model_dump(mode="json", exclude_none=True))
        except httpx.TransportError:
            return False
        return answer.status_code == 202

    def says(self, stage: str) -> str:
        found = [one["sentence"] for one in self.daemon.get("/api/status")["stages"] if one["name"] == stage]
        return " ".join(found)


@pytest.fixture(scope="module")
def stand(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    require_broker()
    folder = tmp_path_factory.mktemp("drill")
    with ExitStack() as running:
        postgres = running.enter_context(running_postgres())
        small_disk = running.enter_context(_small_disk(folder / "var"))
        fakes = [running.enter_context(FakeVllm(answer=lambda *_: GOOD)) for _ in range(2)]
        hook, on_call = Receiver(), Receiver()
        running.callback(hook.close)
        running.callback(on_call.close)
        port, alertmanager_at = free_port(), f"127.0.0.1:{free_port()}"
        targets = {
            "erratad": f"127.0.0.1:{port}",
            "vllm": " ".join(fake.url.removeprefix("http://") for fake in fakes),
            "alertmanager": alertmanager_at,
        }
        broker = EmbeddedBroker.start()
        running.callback(broker.kill)
        kafka = kafka_config(broker)
        broker.create_topics(topics_of(kafka))
        database = postgres.create_database()
        environment = {"FAKE_TOKEN": ADMIN_TOKEN, "HOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
        path = folder / "erratad.yaml"
        path.write_text(
            yaml.safe_dump(_config(folder, port, tiny_model, postgres.url(database), kafka, fakes, hook.url))
        )
        stand = Stand(
            daemon=RunningDaemon(path, port, environment),
            environment=environment,
            postgres=postgres,
            database=database,
            broker=broker,
            kafka=kafka,
            fakes=fakes,
            hook=hook,
            on_call=on_call,
            prometheus=running.enter_context(running_prometheus(folder / "prometheus", targets, short=True)),
            alertmanager=running.enter_context(
                running_alertmanager(folder / "alertmanager", receivers=on_call.address, address=alertmanager_at)
            ),
            small_disk=small_disk,
        )
        running.callback(stand.end_broker)
        stand.daemon.start()
        running.callback(stand.daemon.kill)
        stand.daemon.until(lambda: stand.daemon.get("/readyz") == {"ready": True, "missing": []})
        yield stand


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 16 MiB; None where this machine lets no test mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _config(
    folder: Path, port: int, model: Path, database: str, kafka: KafkaConfig, fakes: list[FakeVllm], hook: str
) -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config |= {"data_dir": str(folder / "var"), "model": {"path": str(model)}, "store": {"url": database}}
    config["http"]["port"] = port
    config["intake"] = {"kafka": kafka.model_dump(mode="json", exclude_none=True)}
    config["reflection"] |= {"analyst": "self", "max_tokens": 64, "fallback_to_template": False}
    config["serving"] |= {
        "mode": "attached",
        "urls": [fake.url for fake in fakes],
        "admin_token_env": "FAKE_TOKEN",
        "port": 8000,
    }
    types = ["adapter.promoted", "adapter.rolled_back", "lesson.created"]
    # more attempts than fit into the time that an alert is pending, and a call that can hang
    config["webhook"] = {
        "url": hook,
        "secret_env": "HOOK_SECRET",
        "events": types,
        "max_attempts": 4,
        "backoff_s": 0.1,
        "timeout_s": 600,
    }
    return config


# --- the drill: each test leaves everything as healthy as it found it ---


def test_no_leader_a_pause_dead_letters_and_a_bad_analyst(stand: Stand) -> None:
    with stand.store() as store:
        until = "UPDATE leases SET owner = 'elsewhere', until = now() + interval '1 hour' WHERE name = :name"
        force(store, until, name=LEASE_NAME)
    _pause(stand, "retention", "retention")
    for fake in stand.fakes:
        fake.answer = lambda *_: "No."
    reports: list[str] = []
    with closing(Producer(options_of(stand.kafka))) as producer:

        def meanwhile() -> None:
            reports.extend(stand.send_reports(6))
            producer.send_and_wait([OutboundRecord(topic=stand.kafka.topic, key=None, value=b"no JSON")] * 6)

        stand.fires("ErratadReflectionFailing", "ErratadDeadLetters", "ErratadNoLeader", meanwhile=meanwhile)
        stand.fires("ErratadStagePaused", stage="retention")
    stand.is_told("ErratadNoLeader", "ErratadStagePaused", "ErratadReflectionFailing", "ErratadDeadLetters")

    # the page of ErratadDeadLetters: the sender is repaired, and sends again what was dead
    sent = flagged()
    schema = json.loads(stand.follow("ErratadDeadLetters", "erratad schema"))
    assert set(schema["required"]) <= set(sent.model_dump(mode="json"))
    _send_to_topic(stand, sent)
    stand.until(lambda: _state(stand, sent.id) is not None, "the repaired message is not taken in")
    # the page of ErratadReflectionFailing: a better analyst, and the buried ones are revived
    for fake in stand.fakes:
        fake.answer = lambda *_: GOOD
    stand.until(lambda: _state(stand, reports[0]) == ReportState.BURIED, "no report is buried")
    stand.follow("ErratadReflectionFailing", "erratad requeue ID ...", **{"ID ...": reports[0]})
    stand.until(lambda: _state(stand, reports[0]) == ReportState.LESSON, "the revived report is not analysed")
    stand.follow("ErratadStagePaused", 'erratad resume STAGE --reason "..."', STAGE="retention")
    # the page of ErratadNoLeader: the daemon that Prometheus does not know is stopped
    with stand.store() as store:
        store.control.abdicate(LEASE_NAME, owner="elsewhere")
    stand.all_end()


def test_intake_falls_behind(stand: Stand) -> None:
    _pause(stand, "ingest", "ingest")
    sent = flagged()
    value = sent.model_dump_json(exclude_none=True).encode()
    with closing(Producer(options_of(stand.kafka))) as producer:

        def send(count: int) -> None:
            producer.send_and_wait([OutboundRecord(topic=stand.kafka.topic, key=None, value=value)] * count)

        send(1001)
        stand.fires("ErratadIntakeLagGrowing", meanwhile=lambda: send(20))
    stand.is_told("ErratadIntakeLagGrowing")
    stand.follow("ErratadIntakeLagGrowing", "erratad resume ingest")
    stand.until(lambda: _state(stand, sent.id) is not None, "what waited is not taken in")
    stand.all_end()


def test_a_server_a_broker_an_endpoint_and_an_adapter_are_gone(stand: Stand) -> None:
    stand.hook.status = 500
    _pause(stand, "reflection", "reflection")
    stand.fakes[1].kill()
    stand.broker.kill()  # before the promotions: their events shall wait
    with stand.store() as store:  # as after a restore from a backup that left the adapters' folders out
        promote(store)
        promote(store)
    stand.send_reports(2)
    if stand.small_disk is not None:
        filler = stand.small_disk / "filler"
        filler.write_bytes(b"x" * int(DISK_BYTES * 0.985))
        stand.fires("ErratadDiskFull", "ErratadDiskLow")
    stand.fires("ErratadVllmDown", "ErratadVllmNotReady", "ErratadLiveAdapterMissing", "ErratadQueueTooOld")
    stand.fires("ErratadKafkaDisconnected", "ErratadEventsNotPublished")
    stand.fires("ErratadWebhookFailing", "ErratadWebhookGaveUp")
    stand.is_told("ErratadVllmDown", "ErratadLiveAdapterMissing", "ErratadQueueTooOld", "ErratadKafkaDisconnected")
    stand.is_told("ErratadEventsNotPublished", "ErratadWebhookFailing", "ErratadWebhookGaveUp")
    stand.is_spared("ErratadVllmNotReady")

    stand.fakes[1].start()
    stand.broker = EmbeddedBroker.start(port=int(stand.broker.bootstrap.partition(":")[2]))
    stand.broker.create_topics(topics_of(stand.kafka))
    stand.hook.status = 200
    stand.follow("ErratadQueueTooOld", "erratad resume reflection")
    if stand.small_disk is not None:
        stand.is_told("ErratadDiskFull")
        stand.is_spared("ErratadDiskLow")
        stand.follow("ErratadDiskFull", 'erratad pause finetune --reason "disk full"')
        filler.unlink()
        stand.follow("ErratadDiskFull", "erratad resume finetune")
    # neither folder is there: the first rollback is refused, and its own page leads on to the base model
    refused = stand.follow("ErratadLiveAdapterMissing", 'erratad rollback --reason "folder lost"', exits=1)
    assert "stays live" in refused
    stand.fires("ErratadSwapFailed", kind="rollback", outcome="refused")
    stand.is_told("ErratadSwapFailed")
    assert "aligned-g000000" in stand.follow("ErratadSwapFailed", "erratad adapters --state retired")
    stand.follow("ErratadSwapFailed", 'erratad rollback GENERATION --reason "..."', GENERATION="0")
    stand.fires("ErratadRolledBack")
    stand.is_told("ErratadRolledBack")
    stand.all_end()


def test_a_database_is_away_while_a_stage_hangs_and_the_daemon_ends(stand: Stand) -> None:
    stand.hook.answers.clear()
    heard = len(stand.hook.received)
    stand.send_reports(1)
    stand.until(lambda: len(stand.hook.received) > heard, "no event is sent to the endpoint that hangs")
    stand.postgres.stop("immediate")
    stand.fires("ErratadStoreUnreachable")
    stand.fires("ErratadStageStuck", stage="webhook")
    stand.is_told("ErratadStoreUnreachable")
    stand.is_spared("ErratadStageStuck")
    assert httpx.get(f"{stand.daemon.url}/livez").status_code == 200  # it fails later: http.max_stall_s

    stand.postgres.start()
    stand.until(lambda: not stand.firing("ErratadStoreUnreachable"), "ErratadStoreUnreachable does not end")
    stand.is_told("ErratadStageStuck")
    stand.follow("ErratadStageStuck", 'erratad pause STAGE --reason "hangs in ..."', STAGE="webhook")
    stand.daemon.kill()
    stand.fires("ErratadDown")
    stand.is_told("ErratadDown")
    stand.follow("ErratadDown", "erratad check-config")
    stand.daemon.start()
    stand.all_end()
    assert "paused" in stand.says("webhook")
    stand.hook.answers.set()
    stand.follow("ErratadWebhookFailing", "erratad resume webhook")


def test_the_runbook_lists_the_alerts_that_no_drill_causes() -> None:
    caused = {name for name in RULES if re.search(rf'"{name}"', Path(__file__).read_text())}
    listed = RUNBOOK.partition("\n## What the drill leaves out\n")[2]
    assert set(re.findall(r"`(Erratad\w+)`", listed)) == set(RULES) - caused


def _pause(stand: Stand, stage: str, name: str) -> None:
    answer = stand.daemon.post("/api/pause", {"stage": stage, "reason": "drill"})
    assert answer.status_code == 200
    stand.until(lambda: "paused" in stand.says(name), f"{name} is not paused")


def _state(stand: Stand, report_id: str) -> ReportState | None:
    answer = httpx.get(f"{stand.daemon.url}/api/reports/{report_id}", timeout=10)
    return ReportState(answer.json()["report"]["state"]) if answer.status_code == 200 else None


def _send_to_topic(stand: Stand, report: FlaggedResponse) -> None:
    value = report.model_dump_json(exclude_none=True).encode()
    with closing(Producer(options_of(stand.kafka))) as producer:
        producer.send_and_wait([OutboundRecord(topic=stand.kafka.topic, key=None, value=value)])
