"""`make bench-intake`: taking in messages from Kafka, over reading them with kafka-python and `json.loads`.

Both read the same topic of a real broker, in turns, in one process. Its processor time counts, so that what others do
on the machine hardly shows; that of the broker does not. The intake is the daemon's with the default configuration:
validation, redaction, quotas, duplicates, SQLite with full durability, commits.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from connectors.kafka.consumer import KafkaOptions, OutboundRecord, Producer
from daemon.config import Config
from daemon.config.intake import KafkaConfig
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.intake.stage import IngestStage
from daemon.privacy.redact import Redactor
from daemon.store import open_store
from tests.benchmarks.report import keep
from tests.fixtures.config import flagged
from tests.fixtures.life import life

MESSAGES = 6_000
ROUNDS = 5
PARTITIONS = 3
SESSION_S = 6.0
"""The broker holds a join of a group for half of it."""
SHOWN = 12
_groups = count(1)
_TAKEN = re.compile(r"took in (\d+) messages")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make bench-intake")
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help=f"the {SHOWN} functions that cost most, instead")
    given = parser.parse_args(arguments)
    with EmbeddedBroker.start() as broker:
        kafka = KafkaConfig(bootstrap_servers=[broker.bootstrap], session_timeout_s=SESSION_S)
        _fill(kafka, given.messages)
        if given.profile:
            _profile(kafka, given.messages)
            return 0
        figures = measured(kafka, given.messages, given.rounds)
    print(json.dumps(keep("intake", command=f'make bench-intake INTAKE="{" ".join(arguments)}"', figures=figures)))
    return 0


def measured(kafka: KafkaConfig, messages: int, rounds: int) -> dict[str, Any]:
    """Messages per second of processor time: medians, and the ratio of each round."""
    pairs = [(_read(kafka, messages), _taken_in(kafka, messages)) for _ in range(rounds)]
    ratios = sorted(round(raw / ours, 3) for raw, ours in pairs)
    return {
        "messages": messages,
        "rounds": rounds,
        "raw_per_cpu_s": round(messages / median(raw for raw, _ in pairs)),
        "intake_per_cpu_s": round(messages / median(ours for _, ours in pairs)),
        "ratio": median(ratios),
        "ratios": ratios,
    }


def _fill(kafka: KafkaConfig, messages: int) -> None:
    with closing(Producer(KafkaOptions(bootstrap_servers=tuple(kafka.bootstrap_servers)))) as producer:
        made = (flagged() for _ in range(messages))
        producer.send_and_wait(
            [OutboundRecord(topic=kafka.topic, key=one.id.encode(), value=one.encode()) for one in made]
        )


def _read(kafka: KafkaConfig, messages: int) -> float:
    """CPU seconds of the peer."""
    started, left = time.process_time(), messages
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=None, auto_offset_reset="earliest", enable_auto_commit=False
    )
    with closing(consumer):
        consumer.assign([TopicPartition(kafka.topic, number) for number in range(PARTITIONS)])
        while left:
            for records in consumer.poll(timeout_ms=1000).values():
                left -= len([json.loads(record.value) for record in records])
        return time.process_time() - started


def _taken_in(kafka: KafkaConfig, messages: int, run: Callable[[Callable[[], None]], object] | None = None) -> float:
    """CPU seconds of erratad in a new group, into a new store. `run`: calls the work, e.g. under a profiler."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = Config.model_validate({"data_dir": folder, "model": {"path": folder}})
        own = kafka.model_copy(update={"group_id": f"bench-{next(_groups)}"})
        with closing(open_store(config)) as store:
            started = time.process_time()
            stage = IngestStage.connect(
                store=store,
                config=config.intake,
                kafka=own,
                memory=folder / "intake.json",
                redactor=Redactor(config),
            )
            with closing(stage):
                (run or (lambda work: work()))(lambda: _step_until(stage, messages))
                return time.process_time() - started


def _step_until(stage: IngestStage, messages: int) -> None:
    left = messages
    while left > 0:
        taken = _TAKEN.match(stage.step(life()).sentence)
        left -= int(taken[1]) if taken else 0


def _profile(kafka: KafkaConfig, messages: int) -> None:
    """Of the intake's thread. The profiler makes calls dearer than they are, most of all short ones."""
    profile = cProfile.Profile(time.thread_time)
    _taken_in(kafka, messages, profile.runcall)
    stats = pstats.Stats(profile, stream=sys.stdout)
    for order in ("tottime", "cumulative"):
        stats.strip_dirs().sort_stats(order).print_stats(SHOWN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
