"""Stage "ingest": stores flagged responses from the topics. `FeedbackIntake` does the same for HTTP.

No message is lost: an offset is committed only after the report is stored or its dead letter is acknowledged.
No message blocks the others: an invalid one becomes a dead letter, and so does one that fails or kills the process
again and again; during an outage, messages are read again later.
A partition whose position is lost is read again from its start: the store knows the ids of what it has already.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from connectors.kafka.consumer import (
    Commit,
    Consumer,
    KafkaUnavailableError,
    Producer,
    RawRecord,
)
from connectors.messages import FlaggedResponse, MessageRejected, Rejection
from daemon import metrics
from daemon.config.intake import IntakeConfig, KafkaConfig
from daemon.config.sources import Sources
from daemon.errors import StoreUnavailableError
from daemon.intake.attempts import MAX_DEATHS, Attempts
from daemon.intake.dead_letters import DeadLetter, DeadLetters
from daemon.intake.losses import Losses
from daemon.intake.refusals import QuotaExceeded, conflict, decoded, over_quota
from daemon.privacy.redact import TOO_MUCH, Redactor
from daemon.records import Source
from daemon.runtime.kafka_options import kafka_options
from daemon.runtime.stage import Life, Step
from daemon.store import Added, Reports, Store

log = structlog.get_logger(__name__)

POLL_S = 1.0
MAX_TRIES = 3
"""A message that raises an unexpected error this often becomes a dead letter."""
PART_BYTES = 4 * 1_048_576
"""Messages of up to this size are stored together, so that a batch of large ones gives heartbeats between them."""
OBSERVE_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackResult:
    """A stored message: its report id, and whether it was new."""

    report_id: str
    outcome: Added


class FeedbackIntake:
    """Stores one message at once, for `POST /v1/feedback`."""

    def __init__(self, *, reports: Reports, config: IntakeConfig, exchanges: bool = False) -> None:
        """`exchanges`: whether the servers remember their answers (`serving.exchanges`)."""
        self._reports = reports
        self._exchanges = exchanges
        self._config = config
        self._limits = Sources(config).limits

    def submit(self, raw: bytes, *, principal: str) -> FeedbackResult:
        """Decode and store one message of this principal. Idempotent. The result has the id as sent.

        Raises:
            MessageRejected: when it cannot be decoded, or the id exists with other content.
            QuotaExceeded: when the principal has no quota left.
            StoreUnavailableError: when the database is unreachable; the message is not stored.
        """
        [result] = self.submit_all([raw], principal=principal)
        if isinstance(result, MessageRejected):
            raise result
        return result

    def submit_all(self, raws: Sequence[bytes], *, principal: str) -> list[FeedbackResult | MessageRejected]:
        """Decode the messages of this principal, and store those that can be stored together, in the order given.

        Raises:
            StoreUnavailableError: when the database is unreachable; no message is stored.
        """
        read = [self._decoded(raw) for raw in raws]
        source = Source(channel="http", principal=principal)
        batch = [(one, source) for one in read if isinstance(one, FlaggedResponse)]
        outcomes = iter(self._reports.add(batch, limits=self._limits) if batch else ())
        results = [
            one if isinstance(one, MessageRejected) else self._result(one, next(outcomes), principal) for one in read
        ]
        for one in results:
            outcome = one.reason if isinstance(one, MessageRejected) else one.outcome
            metrics.INTAKE_MESSAGES.labels(channel="http", outcome=outcome).inc()
        return results

    def _decoded(self, raw: bytes) -> FlaggedResponse | MessageRejected:
        try:
            return decoded(raw, self._config, exchanges=self._exchanges)
        except MessageRejected as exc:
            return exc

    def _result(self, flagged: FlaggedResponse, outcome: Added, principal: str) -> FeedbackResult | MessageRejected:
        if outcome == Added.OVER_QUOTA:
            return QuotaExceeded(principal, self._limits(principal))
        if outcome == Added.CONFLICT:
            return MessageRejected(Rejection.CONFLICT, conflict(flagged))
        if outcome == Added.TOO_MUCH:
            return MessageRejected(Rejection.OVERSIZED, TOO_MUCH)
        return FeedbackResult(report_id=flagged.id, outcome=outcome)


class IngestStage:
    """One member of the consumer group. Call `close` after its thread has ended, to leave the group."""

    name = "ingest"
    idle_s = 0.5

    def __init__(
        self,
        *,
        store: Store,
        config: IntakeConfig,
        consumer: Consumer,
        dead_letters: DeadLetters,
        topics: Sequence[str],
        attempts: Attempts | None = None,
        exchanges: bool = False,
    ) -> None:
        """`exchanges`: whether the servers remember their answers (`serving.exchanges`)."""
        self._exchanges = exchanges
        self._attempts = attempts or Attempts(None)
        self._consumer = consumer
        self._dead_letters = dead_letters
        self._reports = store.reports
        self._config = config
        self._sources = Sources(config)
        self._topics = topics
        self._observed_at = 0.0
        self._connected = False
        self._losses = Losses(store.reports, several_topics=len(topics) > 1)

    @classmethod
    def connect(
        cls,
        *,
        store: Store,
        config: IntakeConfig,
        kafka: KafkaConfig,
        memory: Path | None = None,
        redactor: Redactor | None = None,
        letters: Literal["redacted", "none"] = "redacted",
        exchanges: bool = False,
    ) -> IngestStage:
        """Create the stage for the configured topics. It connects at its first step and after every outage.

        `memory`: the file of `Attempts`. `redactor` and `letters`: for dead letters, as in `DeadLetters`.
        """
        options = kafka_options(kafka)
        topics = Sources(config).topics(kafka)
        consumer = Consumer(
            options,
            topics=topics,
            group_id=kafka.group_id,
            needs_topics=[kafka.dead_letter_topic],
            max_poll_records=kafka.max_poll_records,
            session_timeout_s=kafka.session_timeout_s,
            isolation_level=kafka.isolation_level,
        )
        dead_letters = DeadLetters(
            producer=Producer(options), topic=kafka.dead_letter_topic, redactor=redactor, content=letters
        )
        return cls(
            store=store,
            config=config,
            consumer=consumer,
            dead_letters=dead_letters,
            topics=topics,
            attempts=Attempts(memory),
            exchanges=exchanges,
        )

    @property
    def connected(self) -> bool:
        """Whether the last request to the broker succeeded. Thread-safe."""
        return self._connected

    def step(self, life: Life) -> Step:
        try:
            self._note_losses()
            records = self._consumer.poll(POLL_S)
            if not records:
                return self._wait()
            self._handle(records, life)
            return self._commit(records)
        except KafkaUnavailableError as exc:
            self._note(connected=False)
            return Step(sentence=f"no intake: {exc}")

    def step_while_paused(self, _life: Life) -> Step:
        """Stay a member of the group and measure the lag. Polled records are rewound, so they are read again later."""
        if self._observation_is_due or not self._consumer.settled:
            try:
                self._note_losses()
                self._consumer.rewind(self._consumer.poll(POLL_S))
                self._observe()
            except KafkaUnavailableError as exc:
                self._note(connected=False)
                return Step(sentence=f"the lag is unknown: {exc}")
        return Step(
            sentence=f"messages wait in {_names(self._topics)}{self._remarks}", worked=not self._consumer.settled
        )

    def close(self) -> None:
        self._consumer.close()
        self._dead_letters.close()

    def _handle(self, records: Sequence[RawRecord], life: Life) -> None:
        """Store or dead-letter all records. If store or broker is unreachable, all are read again."""
        try:
            for part in self._attempts.parts(records, most_bytes=PART_BYTES):
                with self._attempts.in_work(part):
                    letters = self._store(part, life)
                self._dead_letters.send(letters)
                self._attempts.forget(part)
                _count(Counter(letter.reason for letter in letters))
                life.heartbeat()
        except (StoreUnavailableError, KafkaUnavailableError):
            self._consumer.rewind(records)
            raise

    def _store(self, records: Sequence[RawRecord], life: Life) -> list[DeadLetter]:
        accepted: list[tuple[RawRecord, FlaggedResponse]] = []
        letters: list[DeadLetter] = []
        for record in records:
            try:
                accepted.append((record, self._decoded(record)))
            except MessageRejected as exc:
                letters.append(DeadLetter(record=record, reason=exc.reason, detail=exc.detail))
            life.heartbeat()
        try:
            return letters + self._added(accepted)
        except (StoreUnavailableError, KafkaUnavailableError):
            raise
        except Exception as exc:  # noqa: BLE001 - the messages at fault are found one by one
            if len(accepted) == 1:
                return [*letters, _failed(accepted[0][0], exc)]
            log.warning("batch_failed", messages=len(accepted), error=type(exc).__name__)
        return letters + self._added_one_by_one(accepted, life)

    def _decoded(self, record: RawRecord) -> FlaggedResponse:
        if (deaths := self._attempts.deaths(record)) >= MAX_DEATHS:
            raise MessageRejected(Rejection.FAILED, f"erratad died {deaths} times with this message in work")
        for _ in range(MAX_TRIES):
            try:
                return decoded(record.value, self._config, exchanges=self._exchanges)
            except MessageRejected:
                raise
            except Exception as exc:  # noqa: BLE001 - whatever it is, the messages behind this one are read
                error = exc
        raise MessageRejected(Rejection.FAILED, _FAILED.format(error=type(error).__name__, tries=MAX_TRIES))

    def _added_one_by_one(self, accepted: Sequence[tuple[RawRecord, FlaggedResponse]], life: Life) -> list[DeadLetter]:
        """After a batch failed: find the messages at fault.

        Raises:
            Exception: each of several messages fails, so the fault is not theirs.
        """
        letters: list[DeadLetter] = []
        failed: list[DeadLetter] = []
        for one in accepted:
            try:
                letters += self._added([one])
            except (StoreUnavailableError, KafkaUnavailableError):
                raise
            except Exception as exc:
                failed.append(_failed(one[0], exc))
                if len(failed) == len(accepted):
                    raise
            life.heartbeat()
        return letters + failed

    def _added(self, accepted: Sequence[tuple[RawRecord, FlaggedResponse]]) -> list[DeadLetter]:
        """Store the messages together; returns the letters of those that were not stored."""
        tries = MAX_TRIES if len(accepted) == 1 else 1
        added = self._tried([(flagged, self._source(record)) for record, flagged in accepted], tries)
        refused = {Added.CONFLICT, Added.OVER_QUOTA, Added.TOO_MUCH}
        _count(Counter(outcome for outcome in added if outcome not in refused))
        letters = []
        for (record, flagged), outcome in zip(accepted, added, strict=True):
            if outcome == Added.CONFLICT:
                letters.append(DeadLetter(record=record, reason=Rejection.CONFLICT, detail=conflict(flagged)))
            elif outcome == Added.TOO_MUCH:
                letters.append(DeadLetter(record=record, reason=Rejection.OVERSIZED, detail=TOO_MUCH))
            elif outcome == Added.OVER_QUOTA:
                principal = self._sources.of_topic(record.topic)
                detail = over_quota(principal, self._sources.limits(principal))
                letters.append(DeadLetter(record=record, reason=Rejection.QUOTA, detail=detail))
        return letters

    def _source(self, record: RawRecord) -> Source:
        principal = self._sources.of_topic(record.topic)
        return Source(channel=record.topic, principal=principal, partition=record.partition, offset=record.offset)

    def _tried(self, batch: Sequence[tuple[FlaggedResponse, Source]], tries: int) -> list[Added]:
        limits = self._sources.limits
        for _ in range(tries - 1):
            try:
                return self._reports.add(batch, limits=limits)
            except StoreUnavailableError:
                raise
            except Exception as exc:  # noqa: BLE001 - the last attempt raises it
                log.warning("message_failed", error=type(exc).__name__)
        return self._reports.add(batch, limits=limits)

    def _commit(self, records: Sequence[RawRecord]) -> Step:
        commit = self._consumer.commit(records)
        metrics.KAFKA_COMMITS.labels(outcome=commit).inc()
        self._observe()
        names = _names(sorted({record.topic for record in records}))
        sentence = f"took in {len(records)} messages of {names}{_REMARKS[commit]}{self._remarks}"
        return Step(sentence=sentence, worked=True)

    def _wait(self) -> Step:
        late = self._consumer.commit([])
        self._observe()
        joins = not self._consumer.settled
        owned: dict[str, list[str]] = {}
        for topic, partition in sorted(self._consumer.partitions):
            owned.setdefault(topic, []).append(str(partition))
        if not owned:
            sentence = f"waits for partitions of {_names(self._topics)}: none is assigned to this member{self._remarks}"
            return Step(sentence=sentence, worked=joins)
        said = "; ".join(f"{topic}, partitions {', '.join(numbers)}" for topic, numbers in owned.items())
        return Step(sentence=f"waits for messages on {said}{_REMARKS[late]}{self._remarks}", worked=joins)

    def _note_losses(self) -> None:
        """Called before a poll: the poll may raise. Raises StoreUnavailableError: they are noted in the next step."""
        self._losses.note(self._consumer.take_losses())

    @property
    def _remarks(self) -> str:
        """Lost positions, and topics that are missing."""
        return self._losses.text + (_MISSING.format(_names(self._consumer.missing)) if self._consumer.missing else "")

    @property
    def _observation_is_due(self) -> bool:
        return time.monotonic() - self._observed_at >= OBSERVE_INTERVAL_S

    def _observe(self) -> None:
        if not self._observation_is_due:
            return
        lags = self._consumer.lag()
        self._observed_at = time.monotonic()
        self._note(connected=True)
        metrics.KAFKA_LAG.clear()
        for (topic, partition), lag in lags.items():
            metrics.KAFKA_LAG.labels(topic=topic, partition=str(partition)).set(lag)
        metrics.KAFKA_TOPICS_MISSING.set(len(self._consumer.missing))

    def _note(self, *, connected: bool) -> None:
        self._connected = connected
        metrics.KAFKA_CONNECTED.set(connected)


_REMARKS = {
    Commit.DONE: "",
    Commit.DELAYED: "; the broker has not confirmed the offsets yet",
    Commit.DROPPED: "; the partitions went to another member, which gets them again",
}


_MISSING = "; cannot read {}: create it, or give this client access to it"


def _names(topics: Sequence[str]) -> str:
    return ", ".join(topics)


_FAILED = "{error} in each of {tries} attempts to take it in; please report this as a fault of erratad"


def _failed(record: RawRecord, error: Exception) -> DeadLetter:
    detail = _FAILED.format(error=type(error).__name__, tries=MAX_TRIES)
    return DeadLetter(record=record, reason=Rejection.FAILED, detail=detail)


def _count(outcomes: Counter[Any]) -> None:
    for outcome, count in outcomes.items():
        metrics.INTAKE_MESSAGES.labels(channel="kafka", outcome=outcome).inc(count)
