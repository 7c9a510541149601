"""Stage "events": from the outbox to the events topic, in order, each at least once."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.kafka.consumer import KafkaUnavailableError, OutboundRecord, Producer
from connectors.messages import Event
from daemon import metrics
from daemon.config.intake import KafkaConfig
from daemon.runtime.kafka_options import kafka_options
from daemon.runtime.stage import Life, Step
from daemon.store import Outbox

BATCH = 200


class EventsStage:
    """Publishes what other stages put into the outbox; the key is the event's subject."""

    name = "events"
    idle_s = 1.0

    def __init__(self, *, producer: Producer, outbox: Outbox, topic: str) -> None:
        self._producer = producer
        self._outbox = outbox
        self._topic = topic

    @classmethod
    def connect(cls, *, kafka: KafkaConfig, outbox: Outbox) -> EventsStage:
        """The stage for the configured topic; it connects when there is something to publish."""
        return cls(producer=Producer(kafka_options(kafka)), outbox=outbox, topic=kafka.events_topic)

    def step(self, _life: Life) -> Step:
        events = self._outbox.unpublished(limit=BATCH)
        if not events:
            metrics.EVENTS_WAITING.set(0)
            return Step(sentence="no events to publish")
        try:
            self._publish(events)
        except KafkaUnavailableError as exc:
            waiting = self._outbox.count_unpublished()
            metrics.EVENTS_WAITING.set(waiting)
            return Step(sentence=f"{waiting} events wait: {exc}")
        return Step(sentence=f"published {len(events)} events to {self._topic}", worked=True)

    def close(self) -> None:
        self._producer.close()

    def _publish(self, events: Sequence[Event]) -> None:
        self._producer.send_and_wait(
            [
                OutboundRecord(
                    topic=self._topic,
                    key=event.subject.encode(),
                    value=event.encode(),
                    headers=(("erratad-event", event.type.encode()),),
                )
                for event in events
            ]
        )
        self._outbox.mark_published([event.id for event in events])
        for event in events:
            metrics.EVENTS_PUBLISHED.labels(type=event.type).inc()
