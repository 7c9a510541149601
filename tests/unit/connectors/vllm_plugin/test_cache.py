"""The servers' own copies of adapters, and the daemon's side of them, over a store in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from connectors.adapter_store import AdapterStore, AdapterStoreError, StoredAdapter
from connectors.chat import EndpointError
from connectors.vllm import VllmServer
from connectors.vllm_plugin import cache
from connectors.vllm_plugin.cache import AdapterCache, CacheSettings
from connectors.vllm_plugin.settings import AliasSettings
from daemon.errors import ServingError
from daemon.records import Adapter
from daemon.serving.fleet import Fleet
from daemon.serving.publisher import Publisher
from tests.fakes.vllm import FakeVllm
from tests.fixtures.serving import an_adapter


class Pulls:
    """Downloads of the server, made in its own process so that they are quick; `gate` holds them up."""

    def __init__(self) -> None:
        self.number = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, store: AdapterStore, call: str, **arguments: Any) -> dict[str, Any]:
        assert call == "pull"
        self.number += 1
        assert self.gate.wait(30)
        stored, folder = StoredAdapter(**arguments["stored"]), Path(arguments["folder"])
        store.pull(stored, folder, max_bytes_per_s=arguments["max_bytes_per_s"])
        return {}


class Scene:
    def __init__(self, fake: FakeVllm, client: VllmServer, store: AdapterStore, folder: Path, pulls: Pulls) -> None:
        self.fake, self.client, self.store, self.pulls = fake, client, store, pulls
        self.publisher = Publisher(store, timeout_s=60)
        self.fleet = Fleet([client], verify=lambda _: None, publisher=self.publisher)
        self._folder = folder

    def adapter(self, generation: int, size: int = 100) -> Adapter:
        folder = self._folder / f"g{generation}"
        folder.mkdir()
        adapter = an_adapter(folder, generation=generation)
        (folder / "adapter_model.safetensors").write_bytes(bytes([generation]) * (size - 2))
        return adapter

    def published(self, generation: int, size: int = 100) -> tuple[str, StoredAdapter]:
        adapter = self.adapter(generation, size)
        return adapter.name, self.store.publish(adapter.name, Path(adapter.path or ""))

    def cached(self) -> set[str]:
        return {path.name.rpartition("-")[0] for path in (self._folder / "cache").iterdir() if path.is_dir()}


@pytest.fixture
def make_scene(
    tmp_path: Path, make_client: Callable[..., VllmServer], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Scene]]:
    pulls, started = Pulls(), list[FakeVllm]()
    monkeypatch.setattr(cache, "in_child", pulls)

    def make(**settings: Any) -> Scene:
        store = AdapterStore(url=f"file://{tmp_path / 'store'}")
        fake = FakeVllm(cache=CacheSettings(store=store, folder=tmp_path / "cache", **settings))
        fake.start()
        started.append(fake)
        return Scene(fake, make_client(fake.url), store, tmp_path, pulls)

    yield make
    pulls.gate.set()
    for fake in started:
        fake.stop()


def test_the_daemon_publishes_an_adapter_and_the_server_pulls_and_loads_its_copy(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    adapter = scene.adapter(3)
    monkeypatch.undo()  # both sides in child processes, as in production
    scene.fleet.ensure_loaded(adapter)
    scene.fleet.ensure_loaded(adapter)
    assert scene.client.state().adapters == {adapter.name: 0}
    copy = Path(scene.fake.engine.adapters[adapter.name])
    assert copy.parent.name == "cache"
    assert (copy / "adapter_model.safetensors").read_bytes() == b"\x03" * 98
    page = httpx.get(f"{scene.fake.url}/metrics", headers={"Authorization": "Bearer test-admin-token"}).text
    assert 'erratad_adapter_pulls_total{outcome="done"} 1.0' in page
    assert "erratad_adapter_pull_duration_seconds_count 1.0" in page
    scene.fleet.unpublish(adapter.name)
    assert list(Path(scene.store.url.removeprefix("file://")).iterdir()) == []


def test_two_requests_for_an_adapter_share_one_download(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene()
    name, stored = scene.published(1)
    scene.pulls.gate.clear()
    with ThreadPoolExecutor(2) as both:
        loads = [both.submit(scene.client.load_stored, name, stored) for _ in range(2)]
        scene.pulls.gate.set()
        assert [load.result() for load in loads] == [None, None]
    assert scene.pulls.number == 1
    scene.client.load_stored(name, stored)
    assert scene.pulls.number == 1, "what is loaded is not pulled again"


def test_a_slow_download_is_answered_with_its_progress_and_holds_nothing_up(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    quick, slow = scene.published(1), scene.published(2)
    scene.client.load_stored(*quick)
    monkeypatch.setattr(cache, "WAIT_S", 0.01)
    scene.pulls.gate.clear()
    with pytest.raises(EndpointError, match=r"goes on: 0 of 100 bytes") as caught:
        scene.client.load_stored(*slow)
    assert caught.value.transient
    scene.client.set_live(quick[0], expected=None)
    assert scene.client.chat("aligned", [{"role": "user", "content": "hi"}], max_tokens=5).model == quick[0]
    monkeypatch.setattr(cache, "WAIT_S", 5)
    scene.pulls.gate.set()
    scene.client.load_stored(*slow)
    assert scene.pulls.number == 2
    assert scene.client.unload(slow[0]), "the lock of loads and unloads is free"


def test_other_bytes_than_were_published_are_refused_and_not_pulled_again_at_once(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene()
    name, stored = scene.published(1)
    weights = Path(stored.url.removeprefix("file://")) / "adapter_model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(b"x" * len(right))
    for _ in range(2):
        with pytest.raises(EndpointError, match="was changed after it was published") as caught:
            scene.client.load_stored(name, stored)
        assert not caught.value.transient
    assert scene.pulls.number == 1
    assert scene.client.state().adapters == {}
    monkeypatch.setattr(cache, "FAILURE_KEPT_S", 0.0)
    weights.write_bytes(right)
    scene.fake.stop()
    scene.fake.start()
    scene.client.load_stored(name, stored)


def test_a_store_that_does_not_answer_is_tried_again(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> dict[str, Any]:
        raise AdapterStoreError("s3://models did not pull within 600 s")

    monkeypatch.setattr(cache, "FAILURE_KEPT_S", 0.0)
    scene = make_scene()
    name, stored = scene.published(1)
    monkeypatch.setattr(cache, "in_child", fails)
    with pytest.raises(EndpointError, match="did not pull within 600 s") as caught:
        scene.client.load_stored(name, stored)
    assert caught.value.transient
    monkeypatch.setattr(cache, "in_child", scene.pulls)
    scene.client.load_stored(name, stored)


def test_the_oldest_copies_go_but_none_that_is_loaded(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(max_adapters=3)
    names = []
    for generation in (1, 2, 3):
        name, stored = scene.published(generation)
        scene.client.load_stored(name, stored)
        os.utime(scene.fake.engine.adapters[name], (generation, generation))
        names.append(name)
    scene.client.unload(names[1])
    scene.client.unload(names[2])
    name, stored = scene.published(4)
    scene.client.load_stored(name, stored)
    assert scene.cached() == {names[0], names[2], name}
    last = [scene.published(generation) for generation in (5, 6)]
    scene.client.load_stored(*last[0])
    with pytest.raises(EndpointError, match=r"4 adapters of .* needed at once.*_MAX_ADAPTERS") as caught:
        scene.client.load_stored(*last[1])
    assert caught.value.transient
    assert scene.cached() == {names[0], name, last[0][0]}


def test_the_bytes_of_copies_are_bounded_and_leftovers_of_downloads_go(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(max_bytes=5000)
    first, second = scene.published(1, 3000), scene.published(2, 3000)
    scene.client.load_stored(*first)
    left = Path(scene.fake.engine.adapters[first[0]]).with_name(".aligned-g000009-x.partial")
    left.mkdir()
    with pytest.raises(EndpointError, match="does not fit"):
        scene.client.load_stored(*second)
    assert not left.exists()
    scene.client.unload(first[0])
    scene.client.load_stored(*second)
    assert scene.cached() == {second[0]}


def test_a_rollback_pulls_an_adapter_that_was_removed_again(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene(max_bytes=5000)
    first, second = scene.published(1, 3000), scene.published(2, 3000)
    for name, stored in (first, second, first):
        scene.client.load_stored(name, stored)
        scene.client.unload(name)
    assert scene.pulls.number == 3


def test_servers_that_cannot_pull_from_the_store_are_named_and_nothing_is_sent_to_them(
    make_scene: Callable[..., Scene], fake_vllm: FakeVllm, make_client: Callable[..., VllmServer], tmp_path: Path
) -> None:
    scene = make_scene()
    adapter = scene.adapter(1)
    elsewhere = Publisher(AdapterStore(url=f"file://{tmp_path}/other"), timeout_s=60)
    without, older = make_client(fake_vllm.url), _Older(fake_vllm.url)
    for server, publisher, why in (
        (scene.client, elsewhere, f"pulls adapters from {scene.store.url}: set ERRATAD_ADAPTER_STORE={elsewhere.url}"),
        (without, scene.publisher, "pulls no adapters: set ERRATAD_ADAPTER_STORE"),
        (older, scene.publisher, "runs the plugin of an older erratad"),
    ):
        fleet = Fleet([server], verify=lambda _: None, publisher=publisher)
        with pytest.raises(EndpointError, match=why) as caught:
            fleet.ensure_loaded(adapter)
        assert caught.value.transient, "an operator mends it, and the run goes on"
    older.close()
    _, stored = scene.published(2)
    for server, url, why in (
        (without, stored.url, "this server pulls no adapters"),
        (scene.client, "s3://other/aligned-g000002/x", r"pulls from file:.* only"),
        (scene.client, f"{scene.store.url}/../other/x", r"pulls from file:.* only"),
    ):
        with pytest.raises(EndpointError, match=why):
            server.load_stored("aligned-g000002", replace(stored, url=url))


class _Older(VllmServer):
    def __init__(self, url: str) -> None:
        super().__init__(url, admin_token="test-admin-token")

    def state(self) -> Any:
        return replace(super().state(), pulls_from=None)


def test_a_store_that_cannot_be_reached_is_a_transient_failure(
    make_scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> dict[str, Any]:
        raise AdapterStoreError("connection refused")

    monkeypatch.setattr("daemon.serving.publisher.in_child", fails)
    scene = make_scene()
    with pytest.raises(EndpointError, match="cannot be published: connection refused") as caught:
        scene.fleet.ensure_loaded(scene.adapter(1))
    assert caught.value.transient
    with pytest.raises(ServingError, match="cannot be deleted from the store: connection refused"):
        scene.fleet.unpublish("aligned-g000001")


def test_a_cache_belongs_to_one_server(tmp_path: Path) -> None:
    lock = f"import fcntl; f = open({str(tmp_path / '.server.lock')!r}, 'ab'); fcntl.lockf(f, fcntl.LOCK_EX)"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{lock}; print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        settings = CacheSettings(store=AdapterStore(url="memory://x"), folder=tmp_path)
        with pytest.raises(ValueError, match="another server uses"):
            AdapterCache(settings, CollectorRegistry())
        holder.kill()


PLAIN = {"ERRATAD_ALIAS": "aligned", "ERRATAD_BASE_NAME": "base", "ERRATAD_ADMIN_TOKEN": "t" * 16}
PULLING = {**PLAIN, "ERRATAD_ADAPTER_STORE": "s3://models/erratad", "ERRATAD_ADAPTER_CACHE": "/var/cache/erratad"}


def test_the_environment_says_where_adapters_are_pulled_from() -> None:
    assert AliasSettings.from_environment(PLAIN).cache is None
    found = AliasSettings.from_environment(
        {**PULLING, "ERRATAD_ADAPTER_STORE_OPTIONS": '{"region": "eu"}', "ERRATAD_ADAPTER_CACHE_MAX_ADAPTERS": "7"}
    ).cache
    assert found is not None
    assert found.store == AdapterStore(url="s3://models/erratad", options={"region": "eu"})
    assert (found.folder, found.max_adapters, found.max_bytes) == (Path("/var/cache/erratad"), 7, 10 * 2**30)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"ERRATAD_ADAPTER_STORE": "s3://key:hush@models"}, "ERRATAD_ADAPTER_STORE: set a URL"),
        ({"ERRATAD_ADAPTER_CACHE": ""}, "ERRATAD_ADAPTER_CACHE: set the absolute path"),
        ({"ERRATAD_ADAPTER_STORE_OPTIONS": '"hush"'}, "ERRATAD_ADAPTER_STORE_OPTIONS is no JSON object"),
        ({"ERRATAD_ADAPTER_CACHE_MAX_BYTES": "many"}, "ERRATAD_ADAPTER_CACHE_MAX_BYTES is 'many'"),
    ],
)
def test_wrong_settings_are_named_without_what_may_be_secret(wrong: Mapping[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        AliasSettings.from_environment({**PULLING, **wrong})
    assert "hush" not in str(caught.value)
