"""A real vLLM server killed in the middle of a swap, under traffic: it comes back, and one generation is live."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.chat import EndpointError
from connectors.messages import EventType
from connectors.vllm import VllmServer
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.records import AdapterState, Run, RunState
from daemon.serving.managed import ManagedServer
from daemon.serving.process import ServerRecord, end_left_over, record_path
from daemon.store import Store
from tests.fixtures.life import life
from tests.fixtures.ports import free_port
from tests.fixtures.required import unavailable
from tests.fixtures.serving import Bench
from tests.fixtures.stores import waiting_events

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ASK = [{"role": "user", "content": "hello"}]
CLIENTS = 3
START_TIMEOUT_S = 120.0
STEP_S = 0.25
SHORT_S = 0.01
"""A promotion that cannot work yet is tried again after at most 1,024 times this, not after a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request under the alias; times are monotonic seconds. `model`: the answering generation, or None."""

    begun: float
    ended: float
    model: str | None
    error: str = ""


class AskingClients:
    """Clients that ask without a pause until the end."""

    def __init__(self, clients: list[VllmServer]) -> None:
        self.asked: list[Asked] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client,)) for client in clients]
        for thread in self._threads:
            thread.start()

    def _ask(self, client: VllmServer) -> None:
        while not self._stop.wait(0.05):
            begun = time.monotonic()
            try:
                reply = client.chat("aligned", ASK, max_tokens=4)
            except EndpointError as exc:
                self.asked.append(Asked(begun=begun, ended=time.monotonic(), model=None, error=str(exc)))
            else:
                assert reply.model == f"aligned-g{reply.generation:06d}"
                self.asked.append(Asked(begun=begun, ended=time.monotonic(), model=reply.model))

    def answers_since(self, begun: float, *, at_least: int) -> set[str | None]:
        """The generations that answered the requests since then; None stands for a failed request."""
        _until(lambda: len(self._since(begun)) >= at_least, timeout_s=60)
        return {one.model for one in self._since(begun)}

    def _since(self, begun: float) -> list[Asked]:
        return [one for one in list(self.asked) if one.begun >= begun]

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Site:
    """A managed vLLM server, its supervisor, and the promotion stage, stepped in turn as the daemon does."""

    def __init__(self, bench: Bench, model: Path, data_dir: Path, make_adapter: Callable[..., Path]) -> None:
        self.bench = bench
        self.data_dir = data_dir
        self._make_adapter = make_adapter
        bench.stage = bench.new_stage(reconcile_interval_s=SHORT_S)
        self.server = ManagedServer(
            model=ModelConfig(path=model),
            serving=ServingConfig(port=free_port(), cpu_threads=1, max_model_len=1024, restart_backoff_s=0.2),
            training=TrainingConfig(),
            data_dir=data_dir,
            publish=bench.fleet.replace,
        )

    @property
    def client(self) -> VllmServer:
        [client] = self.bench.fleet.servers
        return client

    def record(self) -> ServerRecord:
        record = ServerRecord.read(record_path(self.data_dir))
        assert record is not None
        return record

    def candidate(self) -> Run:
        """A run that passed the gate, with an adapter that the server can load."""
        run = self.bench.promoting()
        folder = Path(str(self.bench.store.adapters.get(run.generation).path))
        shutil.copytree(self._make_adapter(seed=run.generation), folder, dirs_exist_ok=True)
        return run

    def step_until_served(self) -> float:
        """Step until the server serves the store's live generation and no run waits; returns that time."""

        def settled() -> bool:
            said = self.server.step(life()).sentence
            self.bench.step()
            if not said.startswith("vLLM serves") or self.bench.store.runs.active() is not None:
                return False
            return self.client.state().live == self.bench.store.adapters.live().name

        _until(settled, timeout_s=START_TIMEOUT_S)
        return time.monotonic()

    def promote_and_kill(self, name: str, moment: str, kill: Callable[[int, int], None]) -> float:
        """One step of the promotion, with the server killed right before or after its flip; returns that time."""
        real, killed_at = self.client.set_live, list[float]()

        def strike() -> None:
            assert name in self.client.state().adapters, "the candidate is loaded before the flip"
            killed_at.append(time.monotonic())
            pid = self.record().pid
            kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

        def hooked(target: str, *, expected: str | None) -> None:
            due = target == name and not killed_at
            if due and moment == "before":
                strike()
            real(target, expected=expected)
            if due and moment == "after":
                assert self.client.state().live == name
                strike()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.client, "set_live", hooked)
            self.bench.step()
        [at] = killed_at
        return at


@pytest.fixture
def site(sqlite_store: Store, tiny_model: Path, make_adapter: Callable[..., Path], tmp_path: Path) -> Iterator[Site]:
    if importlib.util.find_spec("vllm") is None:
        unavailable("vLLM is not installed; run `make setup`")
    bench = Bench(fakes=[], clients=[], store=sqlite_store, folder=tmp_path / "adapters", verify_log=[])
    site = Site(bench, tiny_model, tmp_path / "var", make_adapter)
    yield site
    site.server.close()
    bench.fleet.close()
    end_left_over(site.data_dir, grace_s=1)


@pytest.mark.timeout(420)
def test_a_server_killed_in_a_swap_comes_back_with_the_one_generation_of_the_store(
    site: Site, make_client: Callable[..., VllmServer]
) -> None:
    store = site.bench.store
    site.step_until_served()
    site.candidate()
    site.step_until_served()
    traffic = AskingClients([make_client(site.client.url, api_key=None) for _ in range(CLIENTS)])
    try:
        assert traffic.answers_since(0.0, at_least=CLIENTS) == {"aligned-g000001"}
        downs = [
            _killed_and_back(site, traffic, moment="before", kill=os.kill, committed=False),
            _killed_and_back(site, traffic, moment="after", kill=os.killpg, committed=True),
        ]
    finally:
        traffic.end()
    assert [run.state for run in store.runs.find()] == [RunState.PROMOTED] * 3
    assert Counter(event.type for event in waiting_events(store))[EventType.ADAPTER_PROMOTED] == 3
    failed = [one for one in traffic.asked if one.model is None]
    for down, up in downs:
        assert [one for one in failed if one.ended >= down and one.begun <= up], "no request met the dead server"
    stray = [one for one in failed if not any(one.ended >= down and one.begun <= up for down, up in downs)]
    assert stray == []


def _killed_and_back(
    site: Site, traffic: AskingClients, *, moment: str, kill: Callable[[int, int], None], committed: bool
) -> tuple[float, float]:
    """Kill the server in the swap to a new candidate; `committed`: whether the store made it live nevertheless."""
    store, before = site.bench.store, site.record()
    old, run = store.adapters.live(), site.candidate()
    new = store.adapters.get(run.generation)
    down = site.promote_and_kill(new.name, moment, kill)
    assert store.adapters.live().name == (new.name if committed else old.name)
    assert store.runs.get(run.id).state == (RunState.PROMOTED if committed else RunState.PROMOTING)
    up = site.step_until_served()
    assert site.record().pid != before.pid
    assert [one.name for one in store.adapters.find() if one.state == AdapterState.LIVE] == [new.name]
    assert site.client.state().live == new.name
    assert traffic.answers_since(up, at_least=5 * CLIENTS) == {new.name}
    between = {one.model for one in traffic.asked if one.begun >= down and one.ended <= up}
    assert between <= {None, old.name, new.name}
    if committed:
        assert old.name not in between, "the generation before it answered after the commit"
    return down, up


def _until(condition: Callable[[], Any], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {timeout_s:.0f} s"
        time.sleep(STEP_S)
