"""The Kafka connectors against a real broker."""

from __future__ import annotations

import time
from contextlib import closing, suppress

import pytest
from kafka import KafkaProducer

from connectors.kafka import consumer as connector
from connectors.kafka.consumer import (
    Commit,
    Consumer,
    KafkaUnavailableError,
    OutboundRecord,
    Producer,
    RawRecord,
    RecordTooLargeError,
)
from daemon.config.intake import KafkaConfig
from daemon.demo.embedded_broker import EmbeddedBroker
from tests.fixtures.broker import SESSION_TIMEOUT_S, committed, frozen, options_of, read, send, topics_of


def poll_until(consumer: Consumer, count: int, *, timeout_s: float = 30) -> list[RawRecord]:
    records: list[RawRecord] = []
    deadline = time.monotonic() + timeout_s
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records after {timeout_s} s"
        records += consumer.poll(0.5)
    return records


def numbered(kafka: KafkaConfig, numbers: range) -> list[OutboundRecord]:
    return [OutboundRecord(topic=kafka.topic, key=b"%d" % n, value=b"value %d" % n) for n in numbers]


def test_a_record_arrives_with_key_headers_value_and_coordinates(kafka, consumer_of):
    send(kafka, OutboundRecord(topic=kafka.topic, key=b"k\xff", value=b"\x00v", headers=(("h", b"1"), ("h", b"2"))))
    [record] = poll_until(consumer_of(kafka), 1)
    assert (record.key, record.value, record.headers) == (b"k\xff", b"\x00v", (("h", b"1"), ("h", b"2")))
    assert (record.topic, record.offset) == (kafka.topic, 0)
    assert abs(record.timestamp_ms / 1000 - time.time()) < 60


def test_exactly_the_handled_offsets_are_committed_and_the_rest_comes_again(kafka, consumer_of):
    send(kafka, *numbered(kafka, range(40)))
    first = consumer_of(kafka, max_poll_records=10)
    handled = poll_until(first, 10)
    assert first.commit(handled) is Commit.DONE
    first.poll(0.5)  # read, and not handled
    first.close()
    rest = poll_until(consumer_of(kafka), 30)
    seen = [(record.partition, record.offset) for record in (*handled, *rest)]
    assert len(seen) == len(set(seen)) == 40


def test_a_rewound_batch_comes_again_at_the_next_poll(kafka, consumer_of):
    send(kafka, *numbered(kafka, range(20)))
    consumer = consumer_of(kafka)
    records = poll_until(consumer, 20)
    consumer.rewind(records)
    assert sorted(map(str, poll_until(consumer, 20))) == sorted(map(str, records))


def test_two_members_share_the_partitions_and_lose_nothing(kafka, consumer_of):
    send(kafka, *numbered(kafka, range(60)))
    first, second = consumer_of(kafka), consumer_of(kafka)
    seen: set[tuple[int, int]] = set()
    deadline = time.monotonic() + 40
    while not (len(seen) == 60 and first.partitions and second.partitions):
        assert time.monotonic() < deadline, (len(seen), first.partitions, second.partitions)
        for member in (first, second):
            records = member.poll(0.3)
            seen |= {(record.partition, record.offset) for record in records}
            member.commit(records)
    assert first.partitions | second.partitions == {(kafka.topic, number) for number in range(3)}
    assert not first.partitions & second.partitions
    assert sum(committed(kafka).values()) == 60


def test_a_join_that_is_answered_between_two_polls_counts(kafka, consumer_of):
    consumer = consumer_of(kafka, session_timeout_s=SESSION_TIMEOUT_S)
    consumer.poll(0.5)
    assert not consumer.settled, "the broker holds the join"
    time.sleep(SESSION_TIMEOUT_S / 2)
    consumer.poll(0.5)
    assert len(consumer.partitions) == 3


def test_a_member_that_is_closed_while_it_joins_keeps_no_partition_from_the_next_one(kafka, consumer_of):
    first = consumer_of(kafka, session_timeout_s=SESSION_TIMEOUT_S)
    first.poll(0.5)
    assert not first.settled, "the broker holds the join"
    first.close()
    send(kafka, *numbered(kafka, range(5)))
    assert len(poll_until(consumer_of(kafka, session_timeout_s=SESSION_TIMEOUT_S), 5)) == 5


def test_records_of_every_codec_are_read(kafka, consumer_of):
    codecs = ["gzip", "lz4", "snappy", "zstd"]
    for codec in codecs:
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, compression_type=codec)
        producer.send(kafka.topic, codec.encode() * 1000)
        producer.close(10)
    records = poll_until(consumer_of(kafka), len(codecs))
    assert {record.value for record in records} == {codec.encode() * 1000 for codec in codecs}


class NotText(str):
    """A header key whose bytes are not UTF-8, as librdkafka and Go clients can write."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


def test_a_header_key_that_is_not_utf8_does_not_block_its_partition(kafka, consumer_of):
    odd = OutboundRecord(topic=kafka.topic, key=b"k", value=b"odd", headers=((NotText("xx"), b"1"),))
    plain = OutboundRecord(topic=kafka.topic, key=b"k", value=b"plain")
    send(kafka, plain, odd, plain)
    records = poll_until(consumer_of(kafka), 3, timeout_s=15)
    assert [record.value for record in records] == [b"plain", b"odd", b"plain"]
    assert records[1].headers == ((r"\xff\xfe", b"1"),)


def test_lag_falls_to_zero_and_tells_when_the_broker_is_gone(own_broker, own_kafka, consumer_of):
    send(own_kafka, *numbered(own_kafka, range(5)))
    consumer = consumer_of(own_kafka)
    consumer.commit(poll_until(consumer, 5))
    assert consumer.lag() == {(own_kafka.topic, number): 0 for number in range(3)}
    own_broker.kill()
    assert consumer.poll(0.5) == []
    with pytest.raises(KafkaUnavailableError, match=r"does not answer.*ECONNREFUSED"):
        consumer.lag()


def test_a_commit_that_the_broker_does_not_answer_goes_with_the_next_one(
    own_broker, own_kafka, consumer_of, monkeypatch
):
    monkeypatch.setattr(connector, "COMMIT_TIMEOUT_S", 1.0)
    send(own_kafka, *numbered(own_kafka, range(5)))
    consumer = consumer_of(own_kafka)
    records = poll_until(consumer, 5)
    with frozen(own_broker):
        assert consumer.commit(records) is Commit.DELAYED
    deadline = time.monotonic() + 20
    while consumer.commit([]) is not Commit.DONE:
        assert time.monotonic() < deadline
    assert sum(committed(own_kafka).values()) == 5


def test_a_producer_sends_again_after_an_outage_longer_than_its_delivery_timeout(
    own_broker, own_kafka, consumer_of, monkeypatch
):
    for limit in ("REQUEST_TIMEOUT_S", "DELIVERY_TIMEOUT_S"):
        monkeypatch.setattr(connector, limit, 1.5)
    with closing(Producer(options_of(own_kafka))) as producer:
        producer.send_and_wait(numbered(own_kafka, range(3)))
        own_broker.kill()
        for _ in range(2):
            with pytest.raises(KafkaUnavailableError, match="did not accept the records"):
                producer.send_and_wait(numbered(own_kafka, range(3)))
        with EmbeddedBroker.start(port=int(own_kafka.bootstrap_servers[0].split(":")[1])) as again:
            again.create_topics(topics_of(own_kafka))
            deadline = time.monotonic() + 20
            sent = False
            while not sent:
                assert time.monotonic() < deadline
                with suppress(KafkaUnavailableError):
                    producer.send_and_wait(numbered(own_kafka, range(3)))
                    sent = True
            assert {record.value for record in read(own_kafka, own_kafka.topic)} == {b"value 0", b"value 1", b"value 2"}


def test_a_consumer_reads_on_after_the_broker_was_killed_and_started_anew(own_broker, own_kafka, consumer_of):
    send(own_kafka, *numbered(own_kafka, range(5)))
    consumer = consumer_of(own_kafka)
    consumer.commit(poll_until(consumer, 5))
    own_broker.kill()
    consumer.poll(1)
    with EmbeddedBroker.start(port=int(own_kafka.bootstrap_servers[0].split(":")[1])) as again:
        again.create_topics(topics_of(own_kafka))
        send(own_kafka, *numbered(own_kafka, range(3)))
        assert {record.value for record in poll_until(consumer, 3)} == {b"value 0", b"value 1", b"value 2"}
        consumer.close()


def test_records_of_one_key_keep_their_order(kafka):
    send(kafka, *(OutboundRecord(topic=kafka.topic, key=b"one", value=b"%d" % n) for n in range(300)))
    assert [int(record.value) for record in read(kafka, kafka.topic)] == list(range(300))


def test_a_record_that_is_too_large_is_named_by_its_place(kafka):
    records = [OutboundRecord(topic=kafka.topic, key=b"k", value=b"x" * size) for size in (10, 10, 5000)]
    with (
        closing(Producer(options_of(kafka), max_request_bytes=2000)) as producer,
        pytest.raises(RecordTooLargeError) as info,
    ):
        producer.send_and_wait(records)
    assert info.value.index == 2


def test_a_missing_topic_fails_the_producer_with_the_topics_name(kafka, monkeypatch):
    monkeypatch.setattr(connector, "REQUEST_TIMEOUT_S", 1.0)
    with (
        closing(Producer(options_of(kafka))) as producer,
        pytest.raises(KafkaUnavailableError, match="did not accept the records for nowhere"),
    ):
        producer.send_and_wait([OutboundRecord(topic="nowhere", key=None, value=b"v")])
