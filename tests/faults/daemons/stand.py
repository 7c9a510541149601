"""Three daemons in namespaces of their own, PostgreSQL, a broker and two replicas, and what happens to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from sqlalchemy import select

from connectors.kafka.consumer import OutboundRecord
from connectors.vllm import VllmServer
from daemon.config.intake import KafkaConfig
from daemon.demo.embedded_broker import EmbeddedBroker
from daemon.errors import NotFoundError, StoreUnavailableError
from daemon.records import Report, Run
from daemon.runtime.leader import LEASE_NAME
from daemon.store import Store, open_store, schema
from daemon.store.engine import reading
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.faults.daemons.network import BROKER, DATABASE, REPLICAS, Network, network
from tests.fixtures.broker import kafka_config, read, send, topics_of
from tests.fixtures.config import flagged
from tests.fixtures.ports import free_port
from tests.fixtures.stores import PostgresServer, running_postgres

ROOT = Path(__file__).parents[3]
DAEMONS = 3
LEASE_S = 3.0
REPORTS = 4
"""Of each round."""
WRONG = "This response is wrong because the town that it names is not the capital; a good response names the real one."
"""The base model's answer to every question; it passes as an analysis."""
RIGHT = "The right answer is Utopia."
POLL_S = 0.02


class Late(Exception):  # noqa: N818 - what a drill reports
    """Something did not happen in time."""


class Daemon:
    """One daemon's process, in its namespace."""

    def __init__(self, number: int, net: Network, folder: Path, config: Mapping[str, Any]) -> None:
        self.number = number
        self._command = [*net.within(number), sys.executable, "-m", "daemon", "run", "--config"]
        self._folder = folder / f"daemon{number}"
        self._folder.mkdir()
        for shared in ("runs", "adapters", "chat"):
            (folder / shared).mkdir(exist_ok=True)
            (self._folder / shared).symlink_to(folder / shared)
        self._config = folder / f"daemon{number}.yaml"
        self._config.write_text(yaml.safe_dump({**config, "data_dir": str(self._folder)}))
        self.log = folder / f"daemon{number}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self._config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "FAKE_TOKEN": ADMIN_TOKEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the daemon alone: its children have to end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remove(self) -> None:
        """With what it started."""
        if self._process is None:
            return
        children = []
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
        self.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


class Stand:
    """Runs from flagged reports to a promoted generation, one per round, on daemons that last over all rounds."""

    def __init__(
        self,
        *,
        net: Network,
        daemons: list[Daemon],
        postgres: PostgresServer,
        store: Store,
        kafka: KafkaConfig,
        fakes: list[FakeVllm],
    ) -> None:
        self.net = net
        self.daemons = daemons
        self.postgres = postgres
        self.store = store
        self.fakes = fakes
        self._kafka = kafka
        self._first_of: dict[int, int] = {}
        self._clients = [VllmServer(fake.url, admin_token=ADMIN_TOKEN, timeout_s=5) for fake in fakes]
        for fake in fakes:
            fake.answer = self._answer

    # --- what happens ---

    def send_reports(self, number: int) -> list[str]:
        """The reports of a round. Only generations that begin from now on know the answers to them."""
        self._first_of[number] = self.store.adapters.find(limit=1)[0].generation + 1
        reports = [
            flagged(
                id=f"round{number}-{one}",
                messages=[{"role": "user", "content": f"Question {one} of round{number}: what is its capital?"}],
                checks={"must_contain": ["Utopia"]},
                correction="It is Utopia.",
            )
            for one in range(REPORTS)
        ]
        records = [OutboundRecord(topic=self._kafka.topic, key=one.id.encode(), value=one.encode()) for one in reports]
        send(self._kafka, *records)
        return [one.id for one in reports]

    def _answer(self, model: str, messages: list[dict[str, Any]]) -> str:
        text = json.dumps(messages)
        rounds = [number for number in self._first_of if f"round{number}:" in text]
        knows = model.startswith("aligned-g") and rounds
        return RIGHT if knows and int(model[9:15]) >= self._first_of[rounds[-1]] else WRONG

    # --- what is seen ---

    def term(self) -> int:
        """The number of the present leadership, or of the last one."""
        query = select(schema.leases.c.term).where(schema.leases.c.name == LEASE_NAME)
        with reading(self.store.engine) as connection:
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def stored(self, report_id: str) -> Report | None:
        with suppress(NotFoundError):
            return self.store.reports.get(report_id)
        return None

    def runs_after(self, run_id: int) -> list[Run]:
        return [run for run in self.store.runs.find() if run.id > run_id]

    def leader(self) -> int:
        """The daemon that began the present term, by its own log."""
        term = self.term()
        for daemon in self.daemons:
            if any(f"began={term} " in line for line in _terms(daemon.log)):
                return daemon.number
        raise Late(f"no daemon says that it began term {term}")

    def shown(self) -> list[str | None]:
        """The live generation of each replica; None if it does not answer."""
        shown: list[str | None] = []
        for client in self._clients:
            try:
                shown.append(client.state(timeout_s=2).live)
            except Exception:
                shown.append(None)
        return shown

    def events(self) -> dict[tuple[str, str], set[str]]:
        """Ids of the events on the topic, by type and subject. A repeated delivery has the same id."""
        found: dict[tuple[str, str], set[str]] = {}
        for record in read(self._kafka, self._kafka.events_topic, quiet_s=0.5):
            event = json.loads(record.value)
            found.setdefault((event["type"], event["subject"]), set()).add(event["id"])
        return found

    def until(self, holds: Callable[[], object], what: str, *, timeout_s: float) -> float:
        """Wait; returns the seconds.

        Raises:
            Late: It did not happen in time.
        """
        began = time.monotonic()
        while True:
            with suppress(StoreUnavailableError):
                if holds():
                    return time.monotonic() - began
            if time.monotonic() - began > timeout_s:
                raise Late(f"{what}: not in {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def replica(self, number: int) -> VllmServer:
        return self._clients[number]

    def close(self) -> None:
        for client in self._clients:
            client.close()


def _terms(log: Path) -> list[str]:
    return [line + " " for line in log.read_text(errors="replace").splitlines() if " term " in line]


@contextmanager
def stand(folder: Path, model: Path) -> Iterator[Stand]:
    """The daemons run, and each has made its first step. Raises NoNamespaces where this machine has no right to it."""
    with ExitStack() as running:
        net = running.enter_context(network(DAEMONS))
        postgres = running.enter_context(running_postgres(DATABASE))
        broker = running.enter_context(EmbeddedBroker.start(host=BROKER, port=free_port()))
        kafka = kafka_config(broker)
        broker.create_topics(topics_of(kafka))
        fakes = [FakeVllm(host=address) for address in REPLICAS]
        for fake in fakes:
            fake.facts_dir, fake.token_delay_s = folder / "chat", 0.002
            running.enter_context(fake)
        name = postgres.create_database()
        store = open_store(postgres.url(name))
        running.callback(store.close)
        url = postgres.url(name).replace("127.0.0.1", DATABASE)
        config = _config(model, f"{url}?tcp_user_timeout=5000&connect_timeout=2", kafka, fakes)
        daemons = [Daemon(number, net, folder, config) for number in range(DAEMONS)]
        made = Stand(net=net, daemons=daemons, postgres=postgres, store=store, kafka=kafka, fakes=fakes)
        running.callback(made.close)
        for daemon in daemons:
            running.callback(daemon.remove)
            daemon.start()
        made.until(lambda: len(_owners(store)) == DAEMONS, "three daemons run", timeout_s=180)
        made.until(lambda: made.shown() == ["aligned-g000000"] * len(fakes), "the replicas serve", timeout_s=60)
        yield made


def _owners(store: Store) -> Counter[str]:
    return Counter(beat.owner for beat in store.control.heartbeats() if beat.name == "reflection")


def _config(model: Path, database: str, kafka: KafkaConfig, fakes: list[FakeVllm]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    config["model"] = {"path": str(model)}
    config["store"] = {"url": database, "lease_s": LEASE_S}
    config["intake"] = {"kafka": kafka.model_dump(mode="json", exclude_none=True)}
    config["gate"]["max_p_value"] = 1.0  # few items differ, and the drills are not about the gate
    config["training"]["launcher"] = [sys.executable, "-m", "tests.fakes.trainer"]
    config["reflection"] |= {
        "analyst": "self",
        "max_tokens": 64,
        "max_attempts": 6,
        "lease_s": 4.0,
        "request_timeout_s": 1.0,
        "fallback_to_template": False,
    }
    config["serving"] |= {
        "mode": "attached",
        "urls": [fake.url for fake in fakes],
        "admin_token_env": "FAKE_TOKEN",
        "port": 8000,
        "reconcile_interval_s": 0.5,
    }
    config["http"] = {"port": 8077}
    return config
