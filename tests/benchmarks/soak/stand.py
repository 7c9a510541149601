"""A whole deployment in small: a daemon with its model server, broker and database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from daemon.config.intake import KafkaConfig
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.store import Store, open_store
from tests.benchmarks.soak.forked import Trainers, trainers
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.broker import SESSION_TIMEOUT_S
from tests.fixtures.daemons import RunningDaemon
from tests.fixtures.models import write_tiny_model
from tests.fixtures.ports import free_port
from tests.fixtures.stores import PostgresServer, running_postgres

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
KEPT_ADAPTERS = 3
KEPT_RUNS_S = 60.0
KEPT_EVENTS_S = 60.0
MAX_REPORTS = 24
"""Lessons of a run: from the fourth round on, every run is of the same size."""
ITEMS = 8
"""Items of a suite in the evaluation."""
REJECTED_EVERY = 4
"""Of so many candidates one has learnt nothing."""
WRONG = "The town of that name is the capital, because most maps show it in large letters beside the river."
RIGHT = "The right answer is Utopia, because the town that the flagged answer names is not the capital."
"""Each of them also passes as an analysis."""
ROUND = re.compile(r"round (\d+)\b")
GENERATION = re.compile(r"-g(\d+)")


class School:
    """Answers as a model that learns: a generation knows the rounds that were sent before its first answer."""

    def __init__(self) -> None:
        self.round = 0
        self._learnt: dict[int, int] = {0: -1}

    def answer(self, model: str, messages: list[dict[str, Any]]) -> str:
        named = GENERATION.search(model)
        generation = int(named[1]) if named else 0
        learnt = self._learnt.setdefault(generation, -1 if generation % REJECTED_EVERY == 0 else self.round)
        asked = ROUND.search(messages[-1]["content"])
        return RIGHT if asked is not None and int(asked[1]) <= learnt else WRONG


@dataclass(kw_only=True)
class Stand:
    daemon: RunningDaemon
    store: Store
    """The bench's own connection to the daemon's database."""
    data_dir: Path
    fake: FakeVllm
    school: School
    broker: EmbeddedBroker
    kafka: KafkaConfig
    postgres: PostgresServer | None
    """None: the database is the file of SQLite in `data_dir`."""
    trainers: Trainers | None
    """None: each trainer is a process that the daemon starts."""

    def restart_broker(self) -> None:
        """On the same port; what it held is lost."""
        port = int(self.broker.bootstrap.rpartition(":")[2])
        self.broker = EmbeddedBroker.start(port=port, kafka=self.kafka)

    def ready(self) -> None:
        self.daemon.until(lambda: self.daemon.get("/readyz") == {"ready": True, "missing": []})

    def end_broker(self) -> None:
        self.broker.kill()  # the one that runs now

    def end_daemon(self) -> None:
        if self.daemon.running():
            self.daemon.kill()


@contextmanager
def standing(folder: Path, model: Path, *, backend: str, forked: bool, lessons: int) -> Iterator[Stand]:
    """A daemon that starts a run at `lessons` new lessons. `model`: a real one, for its tokenizer."""
    with ExitStack() as running:
        tiny = write_tiny_model(model, folder / "tiny-llama")
        school = School()
        fake = running.enter_context(FakeVllm(answer=school.answer))
        fake.facts_dir = folder / "var" / "chat"
        broker = EmbeddedBroker.start(port=free_port())
        kafka = KafkaConfig(bootstrap_servers=[broker.bootstrap], session_timeout_s=SESSION_TIMEOUT_S)
        postgres = running.enter_context(running_postgres()) if backend == "postgresql" else None
        port = free_port()
        config = _config(folder, port, tiny, kafka, fake.url, lessons)
        if postgres is not None:
            config["store"] = {"url": postgres.url(postgres.create_database())}
        forking = running.enter_context(trainers(folder / "trainers.socket")) if forked else None
        if forking is not None:
            config["training"]["launcher"] = forking.launcher
        path = folder / "erratad.yaml"
        path.write_text(yaml.safe_dump(config))
        url = config["store"]["url"] if postgres is not None else f"sqlite:///{folder / 'var' / 'erratad.sqlite3'}"
        stand = Stand(
            daemon=RunningDaemon(path, port, {"FAKE_TOKEN": ADMIN_TOKEN}),
            store=running.enter_context(closing(open_store(url))),
            data_dir=folder / "var",
            fake=fake,
            school=school,
            broker=broker,
            kafka=kafka,
            postgres=postgres,
            trainers=forking,
        )
        running.callback(stand.end_broker)
        running.callback(stand.end_daemon)
        stand.daemon.start()
        stand.ready()
        yield stand


def _config(folder: Path, port: int, model: Path, kafka: KafkaConfig, url: str, lessons: int) -> dict[str, Any]:
    """configs/tiny.yaml, with retention so short that its steady state is reached within minutes."""
    config: dict[str, Any] = yaml.safe_load(TINY.read_text())
    config |= {"data_dir": str(folder / "var"), "model": {"path": str(model)}}
    config["http"]["port"] = port
    config["intake"] = {"kafka": kafka.model_dump(mode="json", exclude_none=True)}
    config["schedule"] |= {"min_lessons": lessons, "retry_after_failure_s": 5.0, "check_interval_s": 1.0}
    config["dataset"]["max_reports"] = MAX_REPORTS
    config["evaluation"]["max_items_per_suite"] = ITEMS
    config["reflection"] |= {"analyst": "self", "max_tokens": 64, "fallback_to_template": False, "max_attempts": 8}
    config["reflection"] |= {"request_timeout_s": 2.0, "lease_s": 8.0}
    config["serving"] |= {"mode": "attached", "urls": [url], "admin_token_env": "FAKE_TOKEN", "port": 8000}
    config["serving"]["reconcile_interval_s"] = 1.0
    config["rollout"] = {"watch": {"interval_s": 5.0}}
    config["outbox"] = {"retention_s": KEPT_EVENTS_S}
    config["storage"] = {"keep_adapters": KEPT_ADAPTERS, "keep_runs_days": KEPT_RUNS_S / 86_400}
    return config
