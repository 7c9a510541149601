"""Intake with a real broker and a real store: stage "ingest", stage "events", the HTTP intake and `erratad submit`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.kafka import consumer as connector
from connectors.kafka.consumer import OutboundRecord, Producer, RawRecord
from connectors.messages import EventType, MessageRejected, Rejection
from daemon import metrics
from daemon.config.intake import IntakeConfig, KafkaConfig
from daemon.delivery.events import KafkaSink
from daemon.delivery.stage import DeliveryStage
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.errors import ErratadError, StoreUnavailableError
from daemon.intake import stage as ingest
from daemon.intake.dead_letters import TRUNCATED_BYTES, DeadLetter, DeadLetters
from daemon.intake.stage import FeedbackIntake, FeedbackResult, IngestStage
from daemon.intake.submit import send_kafka
from daemon.records import ReportState
from daemon.runtime.heartbeats import Heartbeats
from daemon.runtime.stage import LastSteps, Step, run_stage
from daemon.store import Added, Reports, Store, open_store
from daemon.store.engine import transaction
from daemon.store.outbox import emit
from tests.fixtures.broker import committed, frozen, kafka_config, options_of, read, send, step_until, topics_of
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.stores import waiting_events

INTAKE = IntakeConfig()


@pytest.fixture
def ingest_of() -> Iterator[Callable[..., IngestStage]]:
    """Makes stages that are closed after the test."""
    made: list[IngestStage] = []

    def make(kafka: KafkaConfig, store: Store, config: IntakeConfig = INTAKE) -> IngestStage:
        made.append(IngestStage.connect(store=store, config=config, kafka=kafka))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def took(step: Step) -> bool:
    return step.sentence.startswith("took in")


def stored(store: Store) -> int:
    return sum(store.reports.counts().values())


def until_stored(stage: IngestStage, store: Store, count: int, *, timeout_s: float = 40) -> None:
    step_until(stage, lambda _: stored(store) >= count, timeout_s=timeout_s)


def test_a_flagged_response_is_stored_with_its_coordinates_and_then_committed(kafka, store, ingest_of):
    send_kafka([flagged(id="one").encode()], kafka)
    stage = ingest_of(kafka, store)
    step = step_until(stage, took)
    assert step.sentence == f"took in 1 messages of {kafka.topic}"
    report = store.reports.get("one")
    assert report.state is ReportState.QUEUED
    assert (report.source.channel, report.source.offset) == (kafka.topic, 0)
    assert committed(kafka) == {report.source.partition: 1}
    assert stage.connected


def test_a_paused_stage_measures_its_lag_and_takes_in_nothing_until_it_is_resumed(
    kafka, sqlite_store, ingest_of, monkeypatch
):
    monkeypatch.setattr(ingest, "OBSERVE_INTERVAL_S", 0.0)
    for number in range(6):  # each in a batch of its own: Tansu counts batches at the end of a partition
        send_kafka([flagged(id=f"waits-{number}").encode()], kafka)
    stage = ingest_of(kafka, sqlite_store)
    stop = threading.Event()

    def lag() -> float:
        return sum(sample.value for metric in metrics.KAFKA_LAG.collect() for sample in metric.samples)

    deadline = time.monotonic() + 60
    while lag() != 6:
        assert time.monotonic() < deadline, stage.step_while_paused(life(stop)).sentence
        stage.step_while_paused(life(stop))
    assert stored(sqlite_store) == 0
    assert committed(kafka) == {}
    assert stage.connected

    until_stored(stage, sqlite_store, 6)
    step_until(stage, lambda _: sum(committed(kafka).values()) == 6)
    assert lag() == 0


def test_a_stage_that_is_paused_from_its_start_gets_its_partitions(kafka, sqlite_store, ingest_of):
    metrics.KAFKA_LAG.clear()
    stage = ingest_of(kafka, sqlite_store)
    sqlite_store.control.pause("ingest", actor="test", reason="from the start")
    stop = threading.Event()
    thread = threading.Thread(
        target=run_stage,
        kwargs={
            "stage": stage,
            "control": sqlite_store.control,
            "commits": sqlite_store.changes.commits,
            "last_steps": LastSteps(),
            "heartbeats": Heartbeats(sqlite_store.control, owner="test"),
            "stop": stop,
        },
    )
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not any(metric.samples for metric in metrics.KAFKA_LAG.collect()):
            assert time.monotonic() < deadline, "the group gave it no partition"
            time.sleep(0.2)
    finally:
        stop.set()
        thread.join()


def test_redelivered_and_duplicate_messages_are_committed_and_never_stored_twice(kafka, sqlite_store, ingest_of):
    report = flagged(id="same")
    send_kafka(
        [report.encode()] * 3 + [flagged(id="copy", messages=report.messages, response=report.response).encode()], kafka
    )
    stage = ingest_of(kafka, sqlite_store)
    step_until(stage, lambda _: sum(committed(kafka).values()) == 4)
    counts = sqlite_store.reports.counts()
    assert (counts[ReportState.QUEUED], counts[ReportState.DUPLICATE]) == (1, 1)
    assert read(kafka, kafka.dead_letter_topic) == []


def malformed() -> list[tuple[Rejection, bytes | None]]:
    valid = json.loads(flagged(id="poison").encode())
    return [
        (Rejection.MALFORMED_JSON, b"{not json"),
        (Rejection.MALFORMED_JSON, None),
        (Rejection.MALFORMED_JSON, b""),
        (Rejection.MALFORMED_JSON, b"[" * 3_500),
        (Rejection.NOT_UTF8, b'{"version": "\xff"}'),
        (Rejection.WRONG_VERSION, json.dumps({**valid, "version": 2}).encode()),
        (Rejection.SCHEMA_VIOLATION, json.dumps({**valid, "response": 5}).encode()),
        (Rejection.MALFORMED_JSON, b"\x00\x00\x00\x00\x07{}"),
        (Rejection.MALFORMED_JSON, b"\x1f\x8b{}"),
        (Rejection.SCHEMA_VIOLATION, json.dumps({**valid, "reason": "a\x00b"}).encode()),
        (Rejection.OVERSIZED, json.dumps({**valid, "response": "x" * 5000}).encode()),
        (Rejection.CONFLICT, json.dumps({**valid, "response": "another answer"}).encode()),
    ]


def test_every_kind_of_bad_message_becomes_a_dead_letter_and_blocks_nothing(kafka, sqlite_store, ingest_of):
    bad = malformed()
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"k", value=flagged(id="poison").encode()))
    send(kafka, *(OutboundRecord(topic=kafka.topic, key=b"k", value=raw, headers=(("trace", b"7"),)) for _, raw in bad))
    send(kafka, OutboundRecord(topic=kafka.topic, key=None, value=b"no key"))
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"k", value=flagged(id="after").encode()))
    stage = ingest_of(kafka, sqlite_store, IntakeConfig(max_message_bytes=4000))
    step_until(stage, lambda _: sum(committed(kafka).values()) == len(bad) + 3)

    assert sqlite_store.reports.get("after").state is ReportState.QUEUED
    assert sqlite_store.reports.get("poison").flagged.response != "another answer"
    letters = read(kafka, kafka.dead_letter_topic)
    assert len(letters) == len(bad) + 1
    by_offset = {int(dict(letter.headers)["erratad-offset"]): letter for letter in letters if letter.key == b"k"}
    assert sorted(by_offset) == list(range(1, len(bad) + 1))
    partition = sqlite_store.reports.get("poison").source.partition
    for offset, (reason, raw) in enumerate(bad, 1):
        letter, headers = by_offset[offset], dict(by_offset[offset].headers)
        assert (letter.key, letter.value) == (b"k", raw)
        assert headers["erratad-reason"].decode() == reason
        assert headers["erratad-detail"]
        assert headers["erratad-topic"].decode() == kafka.topic
        assert int(headers["erratad-partition"]) == partition
        assert int(headers["erratad-timestamp"]) > 1.7e12
        assert headers["trace"] == b"7"


def test_a_dead_letter_that_the_broker_does_not_take_is_cut_and_hashed(kafka):
    whole = b"x" * 1_500_000
    record = RawRecord(
        topic="t", partition=0, offset=5, key=b"k", headers=(("h", None),), value=whole, timestamp_ms=1_700_000_000_000
    )
    wide = RawRecord(
        topic="t", partition=0, offset=6, key=b"k", headers=(("h", whole),), value=b"v", timestamp_ms=1_700_000_000_000
    )
    small = RawRecord(topic="t", partition=0, offset=7, key=None, headers=(), value=None, timestamp_ms=0)
    letters = DeadLetters(
        producer=Producer(options_of(kafka), max_request_bytes=1_000_000), topic=kafka.dead_letter_topic
    )
    with contextlib.closing(letters):
        letters.send(
            [DeadLetter(record=each, reason=Rejection.OVERSIZED, detail="é" * 5000) for each in (record, wide, small)]
        )
    found = {int(dict(letter.headers)["erratad-offset"]): letter for letter in read(kafka, kafka.dead_letter_topic)}
    assert set(found) == {5, 6, 7}
    headers = dict(found[5].headers)
    assert found[5].value == whole[:TRUNCATED_BYTES]
    assert headers["erratad-sha256"].decode() == hashlib.sha256(whole).hexdigest()
    assert headers["erratad-truncated-from"] == b"1500000"
    assert (found[6].key, found[6].value, "h" in dict(found[6].headers)) == (None, b"v", False)
    assert found[7].value == b""


class Away:
    """A store with an unreachable database, until the test changes that."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self.away = True

    def add(self, *args: Any, **settings: Any) -> list[Added]:
        if self.away:
            raise StoreUnavailableError("the database does not answer")
        return self._reports.add(*args, **settings)

    def partitions_of(self, channel: str) -> frozenset[int]:
        return self._reports.partitions_of(channel)


def test_while_the_database_is_away_nothing_is_committed_and_the_batch_comes_again(kafka, sqlite_store, ingest_of):
    send_kafka([flagged().encode() for _ in range(30)], kafka)
    reports = Away(sqlite_store.reports)
    stage = ingest_of(kafka, SimpleNamespace(reports=reports))
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            step_until(stage, took)
    assert committed(kafka) == {}
    reports.away = False
    until_stored(stage, sqlite_store, 30)
    step_until(stage, lambda _: sum(committed(kafka).values()) == 30)


def test_a_stopped_postgresql_is_waited_out(kafka, own_postgres, ingest_of):
    with contextlib.closing(open_store(own_postgres.url(own_postgres.create_database()))) as store:
        send_kafka([flagged().encode() for _ in range(10)], kafka)
        stage = ingest_of(kafka, store)
        until_stored(stage, store, 10)
        own_postgres.stop("immediate")
        send_kafka([flagged().encode() for _ in range(10)], kafka)
        with pytest.raises(StoreUnavailableError):
            step_until(stage, lambda _: False)
        assert sum(committed(kafka).values()) == 10
        own_postgres.start()
        until_stored(stage, store, 20)
        step_until(stage, lambda _: sum(committed(kafka).values()) == 20)


def test_dead_letters_that_nobody_acknowledges_hold_the_commit_back(kafka, sqlite_store, ingest_of, monkeypatch):
    for limit in ("REQUEST_TIMEOUT_S", "DELIVERY_TIMEOUT_S"):
        monkeypatch.setattr(connector, limit, 1.0)
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"k", value=b"bad"))
    stage = ingest_of(kafka, sqlite_store)
    lost = DeadLetters(producer=Producer(options_of(kafka)), topic="nowhere")
    kept, stage._dead_letters = stage._dead_letters, lost
    with contextlib.closing(lost):
        step = step_until(stage, lambda step: "nowhere" in step.sentence)
    assert step.sentence.startswith("no intake: Kafka at")
    assert not step.worked
    assert committed(kafka) == {}
    stage._dead_letters = kept
    step_until(stage, took)
    assert [letter.value for letter in read(kafka, kafka.dead_letter_topic)] == [b"bad"]


def test_a_broker_that_is_killed_and_started_anew_is_waited_out(own_broker, own_kafka, sqlite_store, ingest_of):
    send_kafka([flagged().encode() for _ in range(5)], own_kafka)
    stage = ingest_of(own_kafka, sqlite_store)
    until_stored(stage, sqlite_store, 5)
    own_broker.kill()
    step = step_until(stage, lambda step: step.sentence.startswith("no intake"))
    assert "ECONNREFUSED" in step.sentence
    assert not stage.connected
    with EmbeddedBroker.start(port=int(own_kafka.bootstrap_servers[0].split(":")[1])) as again:
        again.create_topics(topics_of(own_kafka))
        send_kafka([flagged().encode() for _ in range(5)], own_kafka)
        until_stored(stage, sqlite_store, 10)
        assert stage.connected
        stage.close()


def test_a_broker_that_hangs_for_longer_than_the_session_costs_nothing(own_broker, own_kafka, sqlite_store, ingest_of):
    send_kafka([flagged().encode() for _ in range(5)], own_kafka)
    stage = ingest_of(own_kafka, sqlite_store)
    until_stored(stage, sqlite_store, 5)
    with frozen(own_broker):
        step_until(stage, lambda step: step.sentence.startswith("no intake"))
        threading.Event().wait(own_kafka.session_timeout_s + 1)
    send_kafka([flagged().encode() for _ in range(5)], own_kafka)
    until_stored(stage, sqlite_store, 10)
    step_until(stage, lambda _: sum(committed(own_kafka).values()) == 10)


def test_missing_topics_are_named_until_they_are_there(broker, sqlite_store, ingest_of):
    kafka = kafka_config(broker)
    stage = ingest_of(kafka, sqlite_store)
    step = stage.step(life())
    assert f"has no topic {kafka.topic}, {kafka.dead_letter_topic}" in step.sentence
    broker.create_topics(topics_of(kafka))
    send_kafka([flagged().encode()], kafka)
    until_stored(stage, sqlite_store, 1)


# --- stage "events" ---


def emitted(store: Store, count: int) -> list[str]:
    with transaction(store.engine) as connection:
        for number in range(count):
            emit(connection, EventType.LESSON_CREATED, f"report-{number % 3}", {"number": number})
    return [event.id for event in waiting_events(store, limit=count)]


def test_events_arrive_once_in_order_with_their_subject_as_key(kafka, store):
    ids = emitted(store, 250)
    stage = DeliveryStage(store=store, sink=KafkaSink.connect(kafka))
    with contextlib.closing(stage):
        step = step_until(stage, lambda step: not step.worked)
    assert step.sentence == "every event was delivered"
    records = read(kafka, kafka.events_topic)
    assert [json.loads(record.value)["id"] for record in records] == ids
    assert {record.key for record in records} == {b"report-0", b"report-1", b"report-2"}
    assert len(waiting_events(store)) == 0


def test_events_wait_in_the_outbox_while_the_broker_is_away(own_broker, own_kafka, sqlite_store, monkeypatch):
    for limit in ("REQUEST_TIMEOUT_S", "DELIVERY_TIMEOUT_S"):
        monkeypatch.setattr(connector, limit, 1.0)
    stage = DeliveryStage(store=sqlite_store, sink=KafkaSink.connect(own_kafka))
    emitted(sqlite_store, 1)
    step_until(stage, lambda step: not step.worked)
    own_broker.kill()
    ids = emitted(sqlite_store, 3)
    step = stage.step(life())
    assert step.sentence.startswith("3 events wait; last error: Kafka at")
    with EmbeddedBroker.start(port=int(own_kafka.bootstrap_servers[0].split(":")[1])) as again:
        again.create_topics(topics_of(own_kafka))
        step_until(stage, lambda step: step.sentence == "every event was delivered")
        seen = [json.loads(record.value)["id"] for record in read(own_kafka, own_kafka.events_topic)]
        assert list(dict.fromkeys(seen)) == ids
        stage.close()


# --- the HTTP intake ---


def test_the_door_stores_a_message_and_takes_it_again(store):
    intake = FeedbackIntake(reports=store.reports, config=INTAKE)
    message = flagged(id="by-http").encode()
    assert intake.submit(message, principal="backend") == FeedbackResult(report_id="by-http", outcome=Added.STORED)
    assert intake.submit(message, principal="backend") == FeedbackResult(report_id="by-http", outcome=Added.REDELIVERED)
    assert store.reports.get("by-http").source.channel == "http"


@pytest.mark.parametrize(("reason", "raw"), malformed())
def test_the_door_refuses_what_the_topic_refuses(sqlite_store, reason, raw):
    intake = FeedbackIntake(reports=sqlite_store.reports, config=IntakeConfig(max_message_bytes=4000))
    intake.submit(flagged(id="poison").encode(), principal="backend")
    with pytest.raises(MessageRejected) as info:
        intake.submit(raw, principal="backend")
    assert info.value.reason is reason
    assert stored(sqlite_store) == 1


def test_the_embedded_broker_says_what_is_wrong_when_its_port_is_taken(broker):
    with pytest.raises(ErratadError, match=r"port \d+ is in use"):
        EmbeddedBroker.start(port=int(broker.bootstrap.split(":")[1]))
