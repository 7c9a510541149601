"""The alert drill: causes real alerts, receives them from Alertmanager, follows the runbook, and waits for their end.

Real daemon, Prometheus, Alertmanager, PostgreSQL and broker; the two vLLM servers are fakes. Rules, routes and commands
are the shipped ones; only their durations are shorter. Each test leaves everything as healthy as it found it.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator

from connectors.kafka.consumer import OutboundRecord, Producer
from connectors.messages import FlaggedResponse
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.records import ReportState
from daemon.runtime.leader import LEASE_NAME
from tests.fixtures.broker import options_of, topics_of
from tests.fixtures.config import flagged
from tests.fixtures.drill import DISK_BYTES, GOOD, RULES, Stand
from tests.fixtures.http import CLIENT
from tests.fixtures.stores import force, promote

pytestmark = pytest.mark.timeout(900)


def test_no_leader_a_pause_dead_letters_and_a_bad_analyst(stand: Stand) -> None:
    with stand.store() as store:
        until = "UPDATE leases SET owner = 'elsewhere', until = now() + interval '1 hour' WHERE name = :name"
        force(store, until, name=LEASE_NAME)
    stand.pause("retention")
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
    Draft202012Validator(schema).validate(sent.model_dump(mode="json"))
    _send_to_topic(stand, sent)
    stand.until(lambda: stand.state(sent.id) is not None, "the repaired message is not taken in")
    # the page of ErratadReflectionFailing: a better analyst, and the buried ones are revived
    for fake in stand.fakes:
        fake.answer = lambda *_: GOOD
    stand.until(lambda: stand.state(reports[0]) == ReportState.BURIED, "no report is buried")
    stand.follow("ErratadReflectionFailing", "erratad requeue ID ...", **{"ID ...": reports[0]})
    stand.until(lambda: stand.state(reports[0]) == ReportState.LESSON, "the revived report is not analysed")
    stand.follow("ErratadStagePaused", 'erratad resume STAGE --reason "..."', STAGE="retention")
    # the page of ErratadNoLeader: the daemon that Prometheus does not know is stopped
    with stand.store() as store:
        store.control.abdicate(LEASE_NAME, owner="elsewhere")
    stand.all_end()


def test_intake_falls_behind(stand: Stand) -> None:
    stand.pause("ingest")
    sent = flagged()
    value = sent.model_dump_json(exclude_none=True).encode()
    with closing(Producer(options_of(stand.kafka))) as producer:

        def send(count: int) -> None:
            producer.send_and_wait([OutboundRecord(topic=stand.kafka.topic, key=None, value=value)] * count)

        send(1001)
        stand.fires("ErratadIntakeLagGrowing", meanwhile=lambda: send(20))
    stand.is_told("ErratadIntakeLagGrowing")
    stand.follow("ErratadIntakeLagGrowing", "erratad resume ingest")
    stand.until(lambda: stand.state(sent.id) is not None, "what waited is not taken in")
    stand.all_end()


def test_a_topic_is_missing_and_a_sender_has_no_quota_left(stand: Stand) -> None:
    [sent] = stand.send_reports(1)
    sources = [{"name": "desk", "topic": "erratad.desk"}]
    stand.reconfigure(intake={"sources": sources, "max_reports_per_day": 1, "expect_report_within_h": 0.001})

    def send() -> httpx.Response:
        return stand.daemon.post("/v1/feedback", flagged().model_dump(mode="json", exclude_none=True))

    stand.fires("ErratadQuotaReached", channel="http", meanwhile=send)
    stand.fires("ErratadKafkaTopicMissing")
    stand.is_told("ErratadQuotaReached", "ErratadKafkaTopicMissing")
    # the page of ErratadQuotaReached: the answer names the sender
    answer = send()
    assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "quota")
    with stand.store() as store:
        principal = store.reports.get(sent).source.principal
    assert principal in answer.json()["error"]["detail"]
    assert sent in stand.follow("ErratadQuotaReached", "erratad reports --principal NAME", NAME=principal)
    assert "erratad.desk" in stand.follow("ErratadKafkaTopicMissing", "erratad status")
    # all are refused
    stand.fires("ErratadNoReports")
    stand.is_told("ErratadNoReports")
    assert sent in stand.follow("ErratadNoReports", "erratad reports")
    stand.broker.create_topics({"erratad.desk": 1})
    stand.until(lambda: not stand.firing("ErratadKafkaTopicMissing"), "ErratadKafkaTopicMissing does not end")
    stand.reconfigure(intake={"sources": [], "max_reports_per_day": 20_000, "expect_report_within_h": 72})
    assert send().status_code == 202
    stand.all_end()


def test_the_guidance_makes_a_prompt_too_long_and_a_proxy_renames_the_model_in_reports(stand: Stand) -> None:
    fake, question = stand.fakes[0], "Which town is the capital?"
    fake.max_chars = len(f"<user>{question}<assistant>")

    def ask(model: str = "aligned") -> int:
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        return CLIENT.post(f"{fake.url}/v1/chat/completions", json=body).status_code

    assert (ask("base"), ask()) == (200, 400)
    renamed = stand.send_reports(20, model="chat")
    stand.fires("ErratadGuidanceRefused", meanwhile=ask)
    stand.fires("ErratadReportsUnattributed", names="other")
    stand.is_told("ErratadGuidanceRefused", "ErratadReportsUnattributed")
    assert "only because of the guidance" in stand.follow("ErratadGuidanceRefused", "erratad status")
    assert "not served here" in stand.follow("ErratadReportsUnattributed", "erratad status")
    fake.max_chars = None
    stand.follow("ErratadReportsUnattributed", 'erratad erase ID --reason "..."', ID=renamed[0])
    with stand.store() as store:  # the others get older
        force(store, "UPDATE reports SET received_at = received_at - interval '2 days' WHERE model = 'chat'")
    stand.all_end()


def test_the_archive_cannot_be_written(stand: Stand, tmp_path: Path) -> None:
    blocked = tmp_path / "disk"
    blocked.write_text("no folder")
    stand.reconfigure(storage={"archive": {"after_days": 60, "folder": str(blocked / "archive")}})
    stand.fires("ErratadArchiveFailing")
    stand.is_told("ErratadArchiveFailing")
    assert "nothing is archived" in stand.follow("ErratadArchiveFailing", "erratad status")
    blocked.unlink()
    stand.reconfigure()
    stand.until(lambda: "archived 0 reports" in stand.says("archive"), "the archive does not work again")
    stand.all_end()
    stand.reconfigure(storage={"archive": {"after_days": None}})


def test_a_server_a_broker_an_endpoint_and_an_adapter_are_gone(stand: Stand) -> None:
    stand.hook.status = 500
    stand.pause("reflection")
    stand.fakes[1].kill()
    stand.broker.kill()  # before the promotions: their events shall wait
    with stand.store() as store:  # as after a restore from a backup that left the adapters' folders out
        promote(store)
        promote(store)
    stand.send_reports(2)
    if stand.small_disk is not None:
        filler = stand.small_disk / "filler"
        free = shutil.disk_usage(stand.small_disk).free
        filler.write_bytes(b"x" * int(free - DISK_BYTES * 0.015))
        stand.fires("ErratadDiskFull", "ErratadDiskLow")
    stand.fires("ErratadVllmDown", "ErratadVllmNotReady", "ErratadLiveAdapterMissing", "ErratadQueueTooOld")
    stand.fires("ErratadKafkaDisconnected", "ErratadEventsNotPublished")
    stand.fires("ErratadDeliveryFailing", "ErratadDeliveryGaveUp")
    stand.is_told("ErratadVllmDown", "ErratadLiveAdapterMissing", "ErratadQueueTooOld", "ErratadKafkaDisconnected")
    stand.is_told("ErratadEventsNotPublished", "ErratadDeliveryFailing", "ErratadDeliveryGaveUp")
    stand.is_spared("ErratadVllmNotReady")

    stand.fakes[1].start()
    stand.broker = EmbeddedBroker.start(port=int(stand.broker.bootstrap.partition(":")[2]))
    stand.broker.create_topics(topics_of(stand.kafka))
    stand.fires("ErratadKafkaPositionLost", cause="recreated")  # this broker's disk is its memory
    stand.is_told("ErratadKafkaPositionLost")
    stand.until(lambda: "the topic was created again" in stand.says("ingest"), "ingest does not name the cause")
    stand.follow("ErratadKafkaPositionLost", "erratad reports")
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
    assert CLIENT.get(f"{stand.daemon.url}/livez").status_code == 200  # it fails later: http.max_stall_s

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
    stand.follow("ErratadDeliveryFailing", "erratad resume webhook")


def test_targets_vanish(stand: Stand) -> None:
    stand.scrape("vllm", mine=False)
    stand.fires("ErratadTargetVanished", job="vllm")
    stand.is_told("ErratadTargetVanished")
    stand.scrape("erratad", mine=False, neighbours=False)
    stand.fires("ErratadNoTarget")
    stand.is_told("ErratadNoTarget")
    stand.scrape("erratad", "vllm")
    stand.all_end(both_ill=True)


def test_every_alert_is_caused_by_a_drill() -> None:
    drills = "".join(path.read_text() for path in Path(__file__).parent.glob("test_alert_drill*.py"))
    awaited = " ".join(re.findall(r"\.fires\(([^)]*)", drills))
    assert set(re.findall(r'"(Erratad\w+)"', awaited)) == set(RULES)


def _send_to_topic(stand: Stand, report: FlaggedResponse) -> None:
    value = report.model_dump_json(exclude_none=True).encode()
    with closing(Producer(options_of(stand.kafka))) as producer:
        producer.send_and_wait([OutboundRecord(topic=stand.kafka.topic, key=None, value=value)])
