"""Sink of stage "events": the events topic, in order, each event at least once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord, Producer
from daemon import metrics
from daemon.config.intake import KafkaConfig
from daemon.delivery.stage import SinkUnavailableError
from daemon.runtime.kafka_options import kafka_options
from daemon.runtime.stage import Life
from daemon.store.outbox import KAFKA, Attempt, Backlog, DeliveryState, Due


class KafkaSink:
    """Publishes one batch at a time to keep the order. The key is the event's subject."""

    name = "events"
    idle_s = 1.0
    batch = 200
    subscription = KAFKA

    def __init__(self, *, producer: Producer, topic: str) -> None:
        self._producer = producer
        self.target = topic

    @classmethod
    def connect(cls, kafka: KafkaConfig) -> KafkaSink:
        """Make the sink for the configured topic. It connects at the first event."""
        return cls(producer=Producer(kafka_options(kafka)), topic=kafka.events_topic)

    def send(self, due: Sequence[Due], _life: Life) -> Iterator[Sequence[Attempt]]:
        try:
            self._producer.send_and_wait([self._record(one) for one in due])
        except KafkaUnavailableError as exc:
            raise SinkUnavailableError(str(exc)) from exc
        yield [Attempt(due=one, state=DeliveryState.DELIVERED) for one in due]
        for one in due:
            metrics.EVENTS_PUBLISHED.labels(type=one.event.type).inc()

    def show(self, backlog: Backlog) -> None:
        metrics.EVENTS_WAITING.set(backlog.waiting)

    def close(self) -> None:
        self._producer.close()

    def _record(self, due: Due) -> OutboundRecord:
        event = due.event
        return OutboundRecord(
            topic=self.target,
            key=event.subject.encode(),
            value=event.encode(),
            headers=(("erratad-event", event.type.encode()),),
        )
