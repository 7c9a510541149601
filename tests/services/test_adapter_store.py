"""A daemon and three servers that share an S3 bucket and no folder."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.adapter_store import AdapterStore, StoredAdapter
from connectors.vllm import VllmServer
from connectors.vllm_plugin import cache
from connectors.vllm_plugin.cache import CacheSettings
from daemon.records import Adapter, IntentState, Run, RunState
from daemon.runtime.stage import Step
from daemon.serving.fleet import Fleet
from daemon.serving.publisher import Publisher
from daemon.store import Store
from tests.fakes.vllm import FakeVllm
from tests.fixtures.moto import Bucket, Network
from tests.fixtures.serving import Bench

BASE, FIRST, SECOND = (f"aligned-g00000{number}" for number in range(3))
ASK = [{"role": "user", "content": "hello"}]
WEIGHTS_BYTES = 3_000_000


class Apart(Bench):
    """The bench, with a bucket between the daemon and the servers; each server's way to it leads through `network`."""

    def __init__(
        self, bucket: Bucket, network: Network, store: Store, folder: Path, connect: Callable[..., VllmServer]
    ):
        self.caches = [folder / f"cache{number}" for number in range(3)]
        seen = AdapterStore(url=bucket.url, options=bucket.options(network.port))
        fakes = [FakeVllm(cache=CacheSettings(store=seen, folder=one, timeout_s=60)) for one in self.caches]
        for fake in fakes:
            fake.start()
        super().__init__(
            fakes=fakes,
            clients=[connect(fake.url) for fake in fakes],
            store=store,
            folder=folder / "adapters",
            verify_log=[],
        )
        own = AdapterStore(url=bucket.url, options=bucket.options())
        self.publisher = Publisher(own, timeout_s=60)
        self.fleet = Fleet(self.clients, verify=self._verify, publisher=self.publisher)
        self.stage = self.new_stage()

    def ready(self) -> Run:
        """A run that passed the gate."""
        run = self.promoting()
        folder = Path(self.store.adapters.get(run.generation).path or "")
        weights = random.Random(run.generation).randbytes(WEIGHTS_BYTES)
        (folder / "adapter_model.safetensors").write_bytes(weights)
        return run

    def publish(self, run: Run) -> StoredAdapter:
        adapter: Adapter = self.store.adapters.get(run.generation)
        return self.publisher.publish(adapter.name, Path(adapter.path or ""))

    def copies(self, name: str) -> int:
        """How many servers have the right bytes of an adapter in a cache of their own."""
        weights = random.Random(int(name[-6:])).randbytes(WEIGHTS_BYTES)
        found = [path for one in self.caches for path in one.glob(f"{name}-*/adapter_model.safetensors")]
        return sum(path.read_bytes() == weights for path in found)

    def step_until(self, sentence: str) -> str:
        """Steps of the promotion stage until one says this."""
        deadline = time.monotonic() + 120
        while sentence not in (said := self.stage_again().sentence):
            assert time.monotonic() < deadline, said
        return said

    def stage_again(self) -> Step:
        """A step of a stage that waits for nothing."""
        self.stage = self.new_stage()
        return self.step()


@pytest.fixture
def apart(
    bucket: Bucket,
    network: Network,
    sqlite_store: Store,
    tmp_path: Path,
    make_client: Callable[..., VllmServer],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Apart]:
    monkeypatch.setattr(cache, "FAILURE_KEPT_S", 0.0)
    monkeypatch.setattr(cache, "WAIT_S", 50.0)  # busy machines start a process slowly
    apart = Apart(bucket, network, sqlite_store, tmp_path, make_client)
    yield apart
    for client in apart.clients:
        client.close()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(FakeVllm.stop, apart.fakes))


@contextmanager
def traffic(apart: Apart) -> Iterator[list[str]]:
    """Users of all servers meanwhile; the generations that answered. A request that fails fails the test."""
    models: list[str] = []
    ended = threading.Event()

    def ask(client: VllmServer) -> None:
        while not ended.wait(0.02):
            models.append(client.chat("aligned", ASK, max_tokens=5).model)

    with ThreadPoolExecutor(3) as pool:
        users = [pool.submit(ask, client) for client in apart.clients]
        try:
            yield models
        finally:
            ended.set()
        for user in users:
            user.result()


def test_generations_go_live_come_back_and_are_removed_without_a_shared_folder(apart: Apart, bucket: Bucket) -> None:
    apart.step()
    with traffic(apart) as models:
        for name in (FIRST, SECOND):
            run = apart.ready()
            apart.step()
            assert apart.store.runs.get(run.id).state == RunState.PROMOTED
            assert apart.live_names() == {name}
            assert apart.copies(name) == 3
    assert set(models) <= {BASE, FIRST, SECOND}
    apart.fakes[1].stop()
    shutil.rmtree(apart.caches[1])
    apart.fakes[1].start()
    apart.step()
    assert apart.live_names() == {SECOND}, "a new replica pulls what is live"
    intent = apart.ask_rollback()
    apart.step()
    assert apart.store.intents.get(intent).state == IntentState.DONE
    assert apart.live_names() == {FIRST}
    assert apart.copies(FIRST) == 3, "the new replica pulls the older generation, too"
    apart.fleet.unpublish(SECOND)
    assert SECOND not in bucket.listing()
    assert FIRST in bucket.listing()


def test_bytes_that_were_changed_in_the_store_fail_that_swap_only(apart: Apart, bucket: Bucket) -> None:
    apart.step()
    run = apart.ready()
    weights = f"{apart.publish(run).url}/adapter_model.safetensors"
    bucket.put(weights, bytes(WEIGHTS_BYTES))
    with traffic(apart) as models:
        apart.step()
    ended = apart.store.runs.get(run.id)
    assert ended.state == RunState.FAILED
    assert "adapter_model.safetensors was changed after it was published" in str(ended.reason)
    assert set(models) == {BASE}
    apart.ready()
    apart.step()
    assert apart.live_names() == {SECOND}, "the next adapter goes live"


def test_a_download_that_is_cut_off_is_finished_by_a_later_attempt(apart: Apart, network: Network) -> None:
    apart.step()
    apart.ready()
    network.budget, network.cuts = WEIGHTS_BYTES / 2, True
    with traffic(apart) as models:
        sentence = apart.stage_again().sentence
        assert "waits for its promotion" in sentence
        assert "cannot pull aligned-g000001" in sentence
        [partial] = apart.caches[0].glob(".*.partial/adapter_model.safetensors")
        assert 0 < partial.stat().st_size < WEIGHTS_BYTES
        assert set(models) == {BASE}
        network.budget = float("inf")
        apart.step_until(f"{FIRST} is live on 3 servers")
    assert apart.copies(FIRST) == 3


def test_a_slow_store_holds_up_the_swap_and_no_user_and_a_killed_server_pulls_on(
    apart: Apart, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "WAIT_S", 0.3)
    apart.step()
    apart.ready()
    network.budget = WEIGHTS_BYTES / 2
    with traffic(apart) as models:
        sentence = apart.step_until("the download of aligned-g000001-")
        assert "waits for its promotion" in sentence
        assert f"of {WEIGHTS_BYTES + 2} bytes" in sentence
        assert set(models) == {BASE}
        assert apart.live_names() == {BASE}
    apart.fakes[0].kill()
    assert apart.copies(FIRST) == 0
    network.budget = float("inf")
    apart.fakes[0].start()
    apart.step_until(f"{FIRST} is live on 3 servers")
    assert apart.copies(FIRST) == 3
