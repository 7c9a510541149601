"""Intake from several topics with a real broker: each topic is a source of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaAdminClient

from connectors.kafka import consumer as connector
from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord
from daemon import metrics
from daemon.config.intake import IntakeConfig, KafkaConfig, SourceConfig
from daemon.intake import stage as ingest
from daemon.intake.stage import IngestStage
from daemon.store import Store
from tests.fixtures.broker import committed, read, send, step_until
from tests.fixtures.config import flagged
from tests.fixtures.life import life


def second(kafka: KafkaConfig) -> str:
    return f"{kafka.topic}.support"


def intake_of(kafka: KafkaConfig) -> IntakeConfig:
    return IntakeConfig(sources=[SourceConfig(name="support", topic=second(kafka))])


@pytest.fixture
def two_topics(broker: Any, kafka: KafkaConfig) -> KafkaConfig:
    broker.create_topics({second(kafka): 2})
    return kafka


@pytest.fixture
def stage_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[KafkaConfig, Store], IngestStage]]:
    monkeypatch.setattr(connector, "METADATA_MAX_AGE_S", 1.0)
    monkeypatch.setattr(ingest, "OBSERVE_INTERVAL_S", 0.0)
    made: list[IngestStage] = []

    def make(kafka: KafkaConfig, store: Store) -> IngestStage:
        made.append(IngestStage.connect(store=store, config=intake_of(kafka), kafka=kafka))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def put(kafka: KafkaConfig, topic: str, *values: bytes) -> None:
    send(kafka, *(OutboundRecord(topic=topic, key=b"k", value=value) for value in values))


def principals(store: Store) -> list[tuple[str, str, str]]:
    return sorted((report.sent_id, report.source.channel, report.source.principal) for report in store.reports.find())


def lags() -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in metrics.KAFKA_LAG.collect():
        for sample in metric.samples:
            found[sample.labels["topic"]] = found.get(sample.labels["topic"], 0) + sample.value
    return found


def test_each_topic_is_a_principal_with_its_own_ids_and_its_own_dead_letters(two_topics, sqlite_store, stage_of):
    kafka = two_topics
    put(kafka, kafka.topic, flagged(id="same", response="one").encode(), b"bad one")
    put(kafka, second(kafka), flagged(id="same", response="two").encode(), b"bad two")
    stage = stage_of(kafka, sqlite_store)
    step_until(stage, lambda _: len(principals(sqlite_store)) == 2)
    assert principals(sqlite_store) == [("same", kafka.topic, kafka.topic), ("same", second(kafka), "support")]
    step_until(stage, lambda _: lags() == {kafka.topic: 0, second(kafka): 0})
    step = step_until(stage, lambda step: step.sentence.startswith("waits"))
    assert f"{kafka.topic}, partitions 0, 1, 2; {second(kafka)}, partitions 0, 1" in step.sentence
    letters = {
        dict(letter.headers)["erratad-topic"].decode(): letter for letter in read(kafka, kafka.dead_letter_topic)
    }
    assert {topic: letter.value for topic, letter in letters.items()} == {
        kafka.topic: b"bad one",
        second(kafka): b"bad two",
    }
    again = stage_of(kafka, sqlite_store)
    stage.close()
    step_until(again, lambda step: step.sentence.startswith("waits for messages"))
    assert len(principals(sqlite_store)) == 2, "both topics continue after the committed offsets"


def test_a_batch_of_two_topics_that_cannot_be_stored_is_read_again_from_both(
    two_topics, sqlite_store, stage_of, monkeypatch
):
    kafka = two_topics
    put(kafka, kafka.topic, flagged(id="a").encode())
    put(kafka, second(kafka), flagged(id="b").encode())
    stage = stage_of(kafka, sqlite_store)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_store", _away)
        step_until(stage, lambda step: step.sentence == "no intake: away")
        step_until(stage, lambda step: step.sentence == "no intake: away")
    assert principals(sqlite_store) == []
    assert committed(kafka) == {}
    step_until(stage, lambda _: len(principals(sqlite_store)) == 2)


def _away(*_: Any) -> Any:
    raise KafkaUnavailableError("away")


def test_a_paused_stage_measures_the_lag_of_every_topic(two_topics, sqlite_store, stage_of):
    kafka = two_topics
    put(kafka, kafka.topic, flagged().encode())
    put(kafka, second(kafka), flagged().encode())
    stage = stage_of(kafka, sqlite_store)
    for _ in range(40):
        step = stage.step_while_paused(life())
        if lags() == {kafka.topic: 1, second(kafka): 1}:
            break
    assert lags() == {kafka.topic: 1, second(kafka): 1}, step.sentence
    assert principals(sqlite_store) == []


def test_a_topic_that_is_missing_does_not_hold_up_the_other_and_is_read_once_it_is_there(
    broker, kafka, sqlite_store, stage_of
):
    put(kafka, kafka.topic, flagged(id="a").encode())
    stage = stage_of(kafka, sqlite_store)
    step_until(stage, lambda _: len(principals(sqlite_store)) == 1)
    step = stage.step(life())
    assert f"cannot read {second(kafka)}: create it" in step.sentence
    assert metrics.KAFKA_TOPICS_MISSING._value.get() == 1
    broker.create_topics({second(kafka): 2})
    put(kafka, second(kafka), flagged(id="b").encode())
    step_until(stage, lambda _: len(principals(sqlite_store)) == 2)
    step = step_until(stage, lambda step: step.sentence.startswith("waits"))
    assert "cannot read" not in step.sentence
    assert metrics.KAFKA_TOPICS_MISSING._value.get() == 0


def test_only_the_topic_that_was_created_again_is_read_from_its_start(broker, two_topics, sqlite_store, stage_of):
    kafka = two_topics
    put(kafka, kafka.topic, flagged(id="a").encode())
    put(kafka, second(kafka), flagged(id="b").encode())
    stage = stage_of(kafka, sqlite_store)
    step_until(stage, lambda _: len(principals(sqlite_store)) == 2)
    with closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)) as admin:
        admin.delete_topics([second(kafka)])
    broker.create_topics({second(kafka): 2})
    put(kafka, second(kafka), flagged(id="c").encode())
    put(kafka, kafka.topic, flagged(id="d").encode())
    step_until(stage, lambda _: len(principals(sqlite_store)) == 4)
    step = step_until(stage, lambda step: "read again" in step.sentence)
    assert f"of {second(kafka)}, the topic was created again" in step.sentence
    assert f"of {kafka.topic}," not in step.sentence
