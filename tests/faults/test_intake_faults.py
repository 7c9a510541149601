"""Intake under SIGKILL: nothing lost, nothing twice, no gap in the committed offsets."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from connectors.kafka.consumer import OutboundRecord
from connectors.messages import Rejection
from daemon.config.intake import KafkaConfig
from daemon.records import ReportState
from daemon.store import Store
from tests.fixtures.broker import committed, read, send
from tests.fixtures.config import flagged
from tests.fixtures.stores import TEMPLATE, PostgresServer

MESSAGES = 10_000
MALFORMED = 500
REPEATED = 1_000
KILLS = 3
BATCH = 100


class IngestProcess:
    """The stage in a process of its own, which the test may kill."""

    def __init__(self, store_url: str, kafka: KafkaConfig) -> None:
        command = [sys.executable, "-m", "tests.faults.ingest_process", store_url, kafka.model_dump_json()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait(10) == -signal.SIGKILL

    def stop(self) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0

    def discard(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture
def ingest_process(kafka: KafkaConfig) -> Iterator[Callable[[Store], IngestProcess]]:
    """Starts processes; those still running after the test are killed."""
    started: list[IngestProcess] = []
    slim = kafka.model_copy(update={"max_poll_records": BATCH})

    def start(store: Store) -> IngestProcess:
        started.append(IngestProcess(store.engine.url.render_as_string(hide_password=False), slim))
        return started[-1]

    yield start
    for process in started:
        process.discard()


@pytest.fixture
def postgres_store(postgres_server: PostgresServer, open_stores: Callable[[str], Store]) -> Store:
    return open_stores(postgres_server.url(postgres_server.create_database(TEMPLATE)))


@dataclass
class Mixture:
    """Messages in the order of sending, and their expected outcomes."""

    records: list[OutboundRecord] = field(default_factory=list)
    valid: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)


def mixture(topic: str, rng: random.Random) -> Mixture:
    """5 % malformed of every kind, 10 % repeated, the rest valid and unique; a repetition follows its original."""
    mixed = Mixture()
    originals: list[OutboundRecord] = []
    plan = ["bad"] * MALFORMED + ["again"] * REPEATED + ["new"] * (MESSAGES - MALFORMED - REPEATED)
    rng.shuffle(plan)
    plan.insert(0, plan.pop(plan.index("new")))
    for number, kind in enumerate(plan):
        if kind == "new":
            report = flagged(id=f"valid-{number}", reporter=f"user-{number % 500}")
            originals.append(OutboundRecord(topic=topic, key=report.id.encode(), value=report.encode()))
            mixed.records.append(originals[-1])
            mixed.valid.add(report.id)
        elif kind == "again":
            mixed.records.append(rng.choice(originals))
        else:
            reason = list(BAD)[number % len(BAD)]
            original = rng.choice(originals)
            value = BAD[reason](original.value or b"")
            mixed.records.append(OutboundRecord(topic=topic, key=original.key, value=value, headers=(("bad", b"1"),)))
            mixed.kinds[reason] += 1
    return mixed


def _changed(raw: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(raw), **changes}).encode()


BAD: dict[Rejection, Callable[[bytes], bytes]] = {
    Rejection.MALFORMED_JSON: lambda raw: raw[:-1],
    Rejection.NOT_UTF8: lambda raw: raw + b"\xff",
    Rejection.OVERSIZED: lambda raw: _changed(raw, response="x" * 1_048_576),
    Rejection.WRONG_VERSION: lambda raw: _changed(raw, version=2),
    Rejection.SCHEMA_VIOLATION: lambda raw: _changed(raw, messages=[]),
    Rejection.CONFLICT: lambda raw: _changed(raw, response="another answer"),
}


def until(done: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.05)


def stored(store: Store) -> int:
    return sum(store.reports.counts().values())


def until_taken_in(kafka: KafkaConfig, store: Store, *, reports: int, ends: int) -> None:
    """Wait until the reports are stored and their offsets committed.

    The store is asked first: Tansu starts the join of a group anew each time that another client asks for its offsets.
    """
    until(lambda: stored(store) == reports, timeout_s=90)
    until(lambda: sum(committed(kafka).values()) == ends, timeout_s=30)


@pytest.mark.slow
def test_ten_thousand_mixed_messages_survive_three_kills(kafka, sqlite_store, ingest_process):
    rng = random.Random(20260131)
    mixed = mixture(kafka.topic, rng)
    send(kafka, *mixed.records)
    sent = read(kafka, kafka.topic)
    assert len(sent) == MESSAGES
    assert set(mixed.kinds) == set(BAD)

    for kill in range(1, KILLS + 1):
        process = ingest_process(sqlite_store)
        share = len(mixed.valid) * kill // (KILLS + 1)
        until(lambda share=share: stored(sqlite_store) >= share, timeout_s=90)
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        assert share <= stored(sqlite_store) < len(mixed.valid), "the kill came too late to be one on the way"
    process = ingest_process(sqlite_store)
    ends = Counter(record.partition for record in sent)
    until_taken_in(kafka, sqlite_store, reports=len(mixed.valid), ends=MESSAGES)
    assert committed(kafka) == dict(ends)
    process.stop()

    reports = sqlite_store.reports.find(limit=MESSAGES)
    assert Counter(report.id for report in reports) == Counter(mixed.valid)
    assert {report.state for report in reports} == {ReportState.QUEUED}
    assert {report.flagged.response for report in reports}.isdisjoint({"another answer"})

    letters = [dict(letter.headers) for letter in read(kafka, kafka.dead_letter_topic)]
    coordinates = Counter((int(letter["erratad-partition"]), int(letter["erratad-offset"])) for letter in letters)
    assert set(coordinates) == {(record.partition, record.offset) for record in sent if record.headers}
    reasons = {
        (int(letter["erratad-partition"]), int(letter["erratad-offset"])): letter["erratad-reason"].decode()
        for letter in letters
    }
    assert Counter(reasons.values()) == mixed.kinds
    # at least once: messages between the last commit and a kill are sent again
    assert coordinates.total() - len(coordinates) <= KILLS * BATCH


@pytest.mark.slow
def test_a_member_that_slept_through_its_session_neither_loses_nor_doubles_nor_orphans_anything(
    kafka, postgres_store, ingest_process
):
    # PostgreSQL: a process that is stopped inside of a transaction would lock SQLite for the other
    sleeper = ingest_process(postgres_store)
    send(kafka, *(_record(kafka, f"first-{n}") for n in range(100)))
    until_taken_in(kafka, postgres_store, reports=100, ends=100)
    sleeper.signal(signal.SIGSTOP)
    try:
        send(kafka, *(_record(kafka, f"second-{n}") for n in range(100)))
        heir = ingest_process(postgres_store)
        until_taken_in(kafka, postgres_store, reports=200, ends=200)
    finally:
        sleeper.signal(signal.SIGCONT)
    until(lambda: _shared(kafka, postgres_store), timeout_s=90)
    send(kafka, *(_record(kafka, f"third-{n}") for n in range(100)))
    until_taken_in(kafka, postgres_store, reports=300, ends=300)
    for process in (sleeper, heir):
        process.stop()
    assert stored(postgres_store) == 300
    assert sum(committed(kafka).values()) == 300
    assert read(kafka, kafka.dead_letter_topic) == []


def _shared(kafka: KafkaConfig, store: Store) -> bool:
    """Both members say that they own partitions, and together they own all."""
    prefix = f"waits for messages on {kafka.topic}, partitions "
    said = [beat.sentence for beat in store.control.heartbeats() if beat.sentence.startswith(prefix)]
    return len(said) == 2 and sorted(",".join(one.removeprefix(prefix) for one in said).replace(" ", "")) == list(
        ",,012"
    )


def _record(kafka: KafkaConfig, report_id: str) -> OutboundRecord:
    return OutboundRecord(topic=kafka.topic, key=report_id.encode(), value=flagged(id=report_id).encode())
