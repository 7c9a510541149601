"""Positions that no longer fit the log. One contract on the embedded broker and on a fake with Kafka 4's semantics.

The embedded broker answers a fetch outside of the log without an error, has no retention, and delivers aborted records;
these cases run on the fake alone.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.structs import OffsetAndMetadata

from connectors.kafka import consumer as connector
from connectors.kafka import positions
from connectors.kafka.consumer import Commit, Consumer, LossCause, PositionLoss, TopicMissingError
from daemon import metrics
from daemon.config.intake import IntakeConfig, KafkaConfig
from daemon.errors import StoreUnavailableError
from daemon.intake.stage import IngestStage
from daemon.store import Store
from tests.fakes.kafka import MARKER, Aborted, FakeKafka, FakeKafkaConsumer
from tests.fixtures.broker import OutboundRecord, options_of, send, topics_of
from tests.fixtures.config import flagged
from tests.fixtures.life import life


class Embedded:
    """The embedded broker. All records go to one partition, by their key."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.kafka = kafka

    def append(self, *values: bytes) -> None:
        send(self.kafka, *(OutboundRecord(topic=self.kafka.topic, key=b"k", value=value) for value in values))

    def recreate(self) -> None:
        with closing(KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)) as admin:
            admin.delete_topics([self.kafka.topic])
        connector.create_topics(options_of(self.kafka), {self.kafka.topic: topics_of(self.kafka)[self.kafka.topic]})

    def commit_past_the_end(self, offset: int) -> None:
        client = KafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap_servers, group_id=self.kafka.group_id, enable_auto_commit=False
        )
        client.commit({TopicPartition(self.kafka.topic, number): OffsetAndMetadata(offset) for number in range(3)})
        client.close()


class Fake(Embedded):
    """The fake cluster, behind the connector in place of kafka-python."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(KafkaConfig(bootstrap_servers=["fake:9092"], topic="flagged", group_id="group"))
        self.cluster = FakeKafka("flagged")

        def open_client(_: Any, __: Any, **settings: Any) -> FakeKafkaConsumer:
            wanted = ("max_poll_records", "auto_offset_reset", "isolation_level")
            return FakeKafkaConsumer(self.cluster, **{name: settings[name] for name in wanted})

        monkeypatch.setattr(connector, "open_client", open_client)

    def append(self, *values: Any) -> None:
        self.cluster.append(0, *values)

    def recreate(self) -> None:
        self.cluster.delete()
        self.cluster.create()

    def commit_past_the_end(self, offset: int) -> None:
        self.cluster.committed |= dict.fromkeys(self.cluster.logs, OffsetAndMetadata(offset))

    def committed(self, partition: int = 0) -> int:
        return self.cluster.committed[TopicPartition("flagged", partition)].offset


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(monkeypatch)


@pytest.fixture(params=["embedded", "fake"])
def cluster(request: pytest.FixtureRequest) -> Embedded:
    if request.param == "fake":
        return request.getfixturevalue("fake")
    return Embedded(request.getfixturevalue("kafka"))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "METADATA_MAX_AGE_S", 1.0)
    monkeypatch.setattr(positions, "BEYOND_END_S", 1.0)


def read_until(consumer: Consumer, last: bytes, *, timeout_s: float = 60) -> list[bytes]:
    """Poll and commit until a value was read; returns all values."""
    values: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    while last not in values:
        assert time.monotonic() < deadline, f"{last!r} is not among {len(values)} values"
        records = consumer.poll(0.3)
        values += [record.value for record in records if record.value is not None]
        consumer.commit(records)
    return values


def numbered(numbers: range, *, text: str = "value") -> list[bytes]:
    return [f"{text} {number}".encode() for number in numbers]


# --- the contract ---


def test_a_new_group_reads_from_the_start_and_a_known_one_from_its_offset(cluster, consumer_of):
    cluster.append(*numbered(range(10)))
    first = consumer_of(cluster.kafka)
    assert read_until(first, b"value 9") == numbered(range(10))
    assert {loss.cause for loss in first.take_losses()} == {LossCause.NO_OFFSET}
    assert first.take_losses() == []
    first.close()
    cluster.append(b"next")
    second = consumer_of(cluster.kafka)
    assert read_until(second, b"next") == [b"next"]


@pytest.mark.parametrize("count", [22, 40], ids=["shorter than before", "longer than before"])
def test_a_topic_that_is_created_again_is_read_from_its_start(cluster, consumer_of, count):
    cluster.append(*numbered(range(30)))
    consumer = consumer_of(cluster.kafka)
    read_until(consumer, b"value 29")
    consumer.take_losses()
    cluster.recreate()
    cluster.append(*numbered(range(count), text="new"))
    read = read_until(consumer, f"new {count - 1}".encode())
    if b"new 0" not in read:  # the end was read before the client knew the topic's new id
        read += read_until(consumer, f"new {count - 1}".encode())
    assert set(read) == set(numbered(range(count), text="new"))
    assert LossCause.RECREATED in {loss.cause for loss in consumer.take_losses()}
    cluster.append(b"after")
    assert read_until(consumer, b"after") == [b"after"]
    assert consumer.take_losses() == []


def test_a_committed_offset_past_the_end_is_noticed_and_the_partition_is_read_from_its_start(cluster, consumer_of):
    cluster.append(*numbered(range(5)))
    cluster.commit_past_the_end(1000)
    consumer = consumer_of(cluster.kafka)
    assert read_until(consumer, b"value 4") == numbered(range(5))
    losses = consumer.take_losses()
    assert {loss.cause for loss in losses} == {LossCause.BEYOND_END}
    assert {loss.offset for loss in losses} == {1000}


# --- Kafka's own ---


def test_messages_that_retention_deleted_unread_are_counted(fake, consumer_of):
    fake.append(*numbered(range(10)))
    consumer = consumer_of(fake.kafka, max_poll_records=4)
    consumer.poll(0)
    consumer.commit(consumer.poll(0))
    consumer.take_losses()
    fake.cluster.expire(0, before=9)
    assert read_until(consumer, b"value 9") == [b"value 9"]
    assert consumer.take_losses() == [
        PositionLoss(cause=LossCause.BEFORE_START, topic="flagged", partition=0, offset=4, missing=5)
    ]
    assert fake.committed() == 10


def test_a_log_that_was_cut_is_read_from_its_start(fake, consumer_of):
    fake.append(*numbered(range(10)))
    consumer = consumer_of(fake.kafka)
    read_until(consumer, b"value 9")
    consumer.take_losses()
    fake.cluster.cut(0, end=6)
    fake.append(b"other 6")
    assert read_until(consumer, b"other 6") == [*numbered(range(6)), b"other 6"]
    assert consumer.take_losses() == [PositionLoss(cause=LossCause.TRUNCATED, topic="flagged", partition=0)]


def test_a_deleted_topic_is_named_and_is_recreated_later(fake, consumer_of):
    fake.append(*numbered(range(3)))
    consumer = consumer_of(fake.kafka)
    read_until(consumer, b"value 2")
    consumer.take_losses()
    fake.cluster.delete()
    assert consumer.poll(0) == []
    with pytest.raises(TopicMissingError, match="has no topic flagged"):
        consumer.lag()
    fake.cluster.create()
    fake.append(b"new")
    assert read_until(consumer, b"new") == [b"new"]
    assert {loss.cause for loss in consumer.take_losses()} == {LossCause.RECREATED}


def test_a_partition_that_moved_back_for_a_moment_only_is_not_lost(fake, consumer_of, monkeypatch):
    monkeypatch.setattr(positions, "BEYOND_END_S", 60.0)
    fake.append(*numbered(range(3)))
    consumer = consumer_of(fake.kafka)
    read_until(consumer, b"value 2")
    consumer.take_losses()
    consumer._consumer._ends[TopicPartition("flagged", 0)] = 1  # as a new leader reports at first
    assert consumer._watch.losses(consumer._consumer) == []
    assert consumer.poll(0) == []
    assert consumer.take_losses() == []


@pytest.mark.parametrize(
    ("level", "read"), [("read_committed", ["1", "2", "3"]), ("read_uncommitted", ["1", "2", "3", "x", "y"])]
)
def test_aborted_records_are_read_only_when_uncommitted_ones_are_wanted(fake, consumer_of, level, read):
    fake.append(b"1", b"2", b"3", MARKER, Aborted(b"x"), Aborted(b"y"), MARKER)
    consumer = consumer_of(fake.kafka, isolation_level=level)
    assert [value.decode() for value in read_until(consumer, read[-1].encode())] == read
    assert consumer.commit(consumer.poll(0)) is Commit.DONE
    assert consumer.lag() == {("flagged", number): 0 for number in range(3)}
    assert fake.committed() == 7  # past the markers: the group's lag is 0 for other tools, too


def test_handled_offsets_are_committed_past_markers_only_after_everything_was_handled(fake, consumer_of):
    fake.append(b"1", MARKER, b"2")
    consumer = consumer_of(fake.kafka)
    consumer.poll(0)
    records = consumer.poll(0)
    consumer.commit(records[:1])
    consumer.rewind(records[1:])
    assert fake.committed() == 1
    assert read_until(consumer, b"2") == [b"2"]
    assert fake.committed() == 3


def batch(*values: bytes, offset: int, transactional: bool = True, control: bool = False) -> bytes:
    """A record batch of producer 7, as it is stored by a broker."""
    builder = DefaultRecordBatchBuilder(2, 0, transactional, 7, 0, 0, 10_000)
    for number, value in enumerate(values):
        builder.append(number, timestamp=1, key=struct.pack(">hh", 0, 0) if control else None, value=value, headers=[])
    built = bytearray(builder.build())
    struct.pack_into(">q", built, 0, offset)
    if control:
        built[22] |= 0x20  # the attributes' control bit
    return bytes(built)


def test_kafka_python_skips_what_the_broker_calls_aborted_and_moves_past_it():
    """The filter itself, on real record batches: the broker sends aborted records and a list of their transactions."""
    log = batch(b"a", b"b", b"c", offset=0) + batch(b"", offset=3, control=True)
    stored = batch(b"x", b"y", offset=4) + batch(b"", offset=6, control=True)
    part = Fetcher.PartitionRecords(
        0,
        TopicPartition("t", 0),
        MemoryRecords(log + stored),
        check_crcs=False,
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[type("Aborted", (), {"producer_id": 7, "first_offset": 4})()],
    )
    assert [record.value for record in part.take(100)] == [b"a", b"b", b"c"]
    assert part.next_fetch_offset == 7


# --- the stage ---


@pytest.fixture
def stage_of(fake: Fake) -> Iterator[Callable[[Store], IngestStage]]:
    made: list[IngestStage] = []

    def make(store: Store) -> IngestStage:
        made.append(IngestStage.connect(store=store, config=IntakeConfig(), kafka=fake.kafka))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def lost(cause: LossCause) -> float:
    return metrics.KAFKA_POSITIONS_LOST.labels(cause=cause)._value.get()


def steps(stage: IngestStage, count: int = 4) -> str:
    for _ in range(count):
        sentence = stage.step(life()).sentence
    return sentence


def reports(count: int) -> list[bytes]:
    return [flagged(id=f"report-{number}").encode() for number in range(count)]


def test_a_new_group_is_no_loss(fake, stage_of, sqlite_store):
    before = lost(LossCause.NO_OFFSET)
    fake.append(*reports(2))
    assert steps(stage_of(sqlite_store)) == "waits for messages on flagged, partitions 0, 1, 2"
    assert lost(LossCause.NO_OFFSET) == before


def test_expired_offsets_are_counted_shown_and_cost_no_second_report(fake, stage_of, sqlite_store):
    fake.append(*reports(2))
    first = stage_of(sqlite_store)
    steps(first)
    first.close()
    fake.cluster.committed.clear()
    before, redelivered = (
        lost(LossCause.NO_OFFSET),
        metrics.INTAKE_MESSAGES.labels(channel="kafka", outcome="redelivered"),
    )
    known = redelivered._value.get()
    sentence = steps(stage_of(sqlite_store))
    assert "read again from the start since" in sentence
    assert sentence.endswith("UTC: partition 0, the group has no committed offset any more")
    assert lost(LossCause.NO_OFFSET) == before + 1
    assert redelivered._value.get() == known + 2
    assert sum(sqlite_store.reports.counts().values()) == 2


def test_a_topic_created_again_is_counted_and_shown_and_its_messages_are_stored(fake, stage_of, sqlite_store):
    fake.append(*reports(3))
    stage = stage_of(sqlite_store)
    steps(stage)
    before = lost(LossCause.RECREATED)
    fake.recreate()
    fake.append(flagged(id="after").encode())
    sentence = steps(stage)
    assert "partition 0, the topic was created again; partition 1, the topic was created again" in sentence
    assert lost(LossCause.RECREATED) == before + 3
    assert sqlite_store.reports.get("after") is not None
    assert stage.connected


def test_lost_messages_are_named_with_their_number(fake, stage_of, sqlite_store):
    fake.append(*reports(1))
    stage = stage_of(sqlite_store)
    steps(stage)
    fake.append(*[flagged(id=f"unread-{number}").encode() for number in range(5)])
    fake.cluster.expire(0, before=5)
    sentence = steps(stage)
    assert "partition 0 (position 1), the broker deleted messages before they were read, 4 of them are lost" in sentence


def test_a_paused_stage_notices_a_lost_position(fake, stage_of, sqlite_store, monkeypatch):
    monkeypatch.setattr("daemon.intake.stage.OBSERVE_INTERVAL_S", 0.0)
    fake.append(*reports(1))
    stage = stage_of(sqlite_store)
    steps(stage)
    fake.recreate()
    for _ in range(3):
        sentence = stage.step_while_paused(life()).sentence
    assert "the topic was created again" in sentence


def test_a_loss_that_the_store_could_not_be_asked_about_is_noted_later(fake, stage_of, sqlite_store, monkeypatch):
    fake.append(*reports(1))
    stage = stage_of(sqlite_store)
    steps(stage)
    before = lost(LossCause.RECREATED)
    fake.recreate()

    def away(_: str) -> frozenset[int]:
        raise StoreUnavailableError("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(sqlite_store.reports, "partitions_of", away)
        for _ in range(3):
            with suppress(StoreUnavailableError):
                stage.step(life())
    assert lost(LossCause.RECREATED) == before
    steps(stage)
    assert lost(LossCause.RECREATED) == before + 3


def test_the_configured_isolation_level_reaches_the_consumer(fake, sqlite_store):
    fake.append(Aborted(flagged(id="aborted").encode()), MARKER)
    for level, taken in (("read_committed", 0), ("read_uncommitted", 1)):
        kafka = fake.kafka.model_copy(update={"isolation_level": level})
        stage = IngestStage.connect(store=sqlite_store, config=IntakeConfig(), kafka=kafka)
        with closing(stage):
            steps(stage)
        fake.cluster.committed.clear()
        assert sum(sqlite_store.reports.counts().values()) == taken
