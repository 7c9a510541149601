"""The server's own copies of adapters: pulled from the store that the daemon publishes to, checked, bounded.

A download runs in a child process, one at a time. A request for an adapter waits `WAIT_S` for it. Then it is answered
with 503 and the progress; the download goes on, and the daemon asks again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as CounterMetric

from connectors.adapter_store import AdapterStore, AdapterStoreError, StoredAdapter, in_child, partial_folder
from connectors.vllm_plugin.errors import RequestRefused

WAIT_S = 20.0
FAILURE_KEPT_S = 20.0
"""A failed download is not repeated for this long, however often the daemon asks."""
BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """`folder` belongs to one server. `max_bytes` and `max_adapters` bound all that is in it, also what is loaded."""

    store: AdapterStore
    folder: Path
    max_bytes: int = 10 * 2**30
    max_adapters: int = 16
    timeout_s: float = 600.0
    """The longest time of one download. The next one goes on where it ended."""
    max_bytes_per_s: float = 100 * 2**20


class AdapterCache:
    """Used by the server's event loop only. Raises ValueError if another server uses the folder."""

    def __init__(self, settings: CacheSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._held: Counter[Path] = Counter()
        self._expected: dict[Path, int] = {}
        self._pulls: dict[Path, asyncio.Task[RequestRefused | None]] = {}
        self._failures: dict[Path, tuple[float, RequestRefused]] = {}
        self._checked: set[Path] = set()
        self._turn = asyncio.Lock()
        settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(settings.folder)
        self._outcomes = CounterMetric(
            "erratad_adapter_pulls", "Downloads of adapters from the store, by outcome.", ["outcome"], registry=registry
        )
        self._durations = Histogram(
            "erratad_adapter_pull_duration_seconds",
            "Time of a download of an adapter that succeeded.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        size = Gauge("erratad_adapter_cache_bytes", "Bytes of the adapters in this server's cache.", registry=registry)
        size.set_function(lambda: sum(map(_bytes, self._folders())))

    @property
    def url(self) -> str:
        return self._settings.store.url

    def folder(self, name: str, stored: StoredAdapter) -> Path:
        """Where the adapter lies once it is pulled. Other bytes get another path: vLLM 0.32 caches prefixes by path."""
        return self._settings.folder / f"{name}-{stored.listing_sha256[:16]}"

    @contextmanager
    def holding(self, folder: Path, size: int) -> Iterator[None]:
        """Keep the adapter, of this size, from being removed."""
        self._held[folder] += 1
        self._expected[folder] = size
        try:
            yield
        finally:
            self._held[folder] -= 1
            if self._held[folder] == 0:
                del self._held[folder], self._expected[folder]

    async def make_room(self, folder: Path, *, needed: Collection[str]) -> None:
        """Remove the oldest adapters until this one fits too, but none that is in `needed` or held.

        Raises:
            RequestRefused: it does not fit.
        """
        kept = {Path(path) for path in needed} | set(self._held) | set(self._pulls)
        coming = sum(size for path, size in self._expected.items() if not path.exists())
        full = await asyncio.to_thread(self._remove_oldest, kept, coming, sum(not path.exists() for path in self._held))
        if full:
            raise RequestRefused(
                HTTPStatus.INSUFFICIENT_STORAGE,
                "adapter_cache_full",
                f"{folder.name} does not fit: {full}; raise ERRATAD_ADAPTER_CACHE_MAX_BYTES or _MAX_ADAPTERS",
            )

    def _remove_oldest(self, kept: Collection[Path], coming: int, adapters_coming: int) -> str:
        """Also removes what is left of interrupted downloads. Returns why there is no room, or an empty text."""
        for left in set(self._settings.folder.glob(".*.partial")) - {partial_folder(path) for path in kept}:
            shutil.rmtree(left)
        sizes = {path: _bytes(path) for path in self._folders()}
        removable = sorted(sizes.keys() - kept, key=lambda path: path.stat().st_mtime, reverse=True)
        while True:
            total, number = coming + sum(sizes.values()), adapters_coming + len(sizes)
            if total <= self._settings.max_bytes and number <= self._settings.max_adapters:
                return ""
            if not removable:
                return f"{number} adapters of {total} bytes would be needed at once"
            oldest = removable.pop()
            shutil.rmtree(oldest)
            del sizes[oldest]

    async def pull(self, stored: StoredAdapter, folder: Path) -> None:
        """Have the adapter in `folder`, or refuse after `WAIT_S`. What an earlier server left there is checked.

        Raises:
            RequestRefused: it is not there yet, or the download failed.
        """
        if not stored.url.startswith(f"{self.url}/") or ".." in stored.url.split("/"):
            raise RequestRefused(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "other_store",
                f"this server pulls from {self.url} only (ERRATAD_ADAPTER_STORE), not from {stored.url}",
            )
        if folder in self._checked and folder.exists():
            os.utime(folder)
            return
        until, failure = self._failures.get(folder, (0.0, None))
        if failure is not None and time.monotonic() < until:
            raise failure
        task = self._pulls.get(folder) or asyncio.create_task(self._run(stored, folder))
        self._pulls[folder] = task
        done, _ = await asyncio.wait({task}, timeout=WAIT_S)
        if not done:
            raise RequestRefused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "adapter_coming",
                f"the download of {folder.name} goes on: {_bytes(partial_folder(folder))} of {stored.bytes} bytes",
            )
        if (refusal := task.result()) is not None:
            raise refusal

    async def _run(self, stored: StoredAdapter, folder: Path) -> RequestRefused | None:
        """Download; returns the refusal instead of raising it, because there may be no request that waits for it."""
        try:
            async with self._turn:
                started = time.monotonic()
                failure = await _in_thread(lambda: self._download(stored, folder))
        finally:
            del self._pulls[folder]
        if failure is None:
            self._checked.add(folder)
            self._outcomes.labels(outcome="done").inc()
            self._durations.observe(time.monotonic() - started)
            return None
        self._outcomes.labels(outcome="damaged" if failure.damaged else "failed").inc()
        refusal, now = _refused(folder, failure), time.monotonic()
        recent = {path: kept for path, kept in self._failures.items() if kept[0] > now}
        self._failures = {**recent, folder: (now + FAILURE_KEPT_S, refusal)}
        return refusal

    def _download(self, stored: StoredAdapter, folder: Path) -> AdapterStoreError | None:
        settings = self._settings
        pace = {"timeout_s": settings.timeout_s, "max_bytes_per_s": settings.max_bytes_per_s}
        try:
            in_child(settings.store, "pull", stored=asdict(stored), folder=str(folder), **pace)
        except AdapterStoreError as exc:
            return exc
        return None

    def _folders(self) -> list[Path]:
        return [path for path in self._settings.folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _own(folder: Path) -> None:
    """Lock the folder until the process ends. Unlike `flock`, the lock is not inherited by a forked engine."""
    descriptor = os.open(folder / ".server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise ValueError(f"ERRATAD_ADAPTER_CACHE: another server uses {folder}; name another folder") from exc


async def _in_thread(call: Callable[[], AdapterStoreError | None]) -> AdapterStoreError | None:
    """Run it in a daemon thread: a server that stops does not wait for a download, as `asyncio.to_thread` would."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[AdapterStoreError | None] = loop.create_future()

    def tell(found: AdapterStoreError | None) -> None:
        if not answer.done():  # the server stops
            answer.set_result(found)

    def run() -> None:
        found = call()
        with suppress(RuntimeError):  # the server has stopped
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, daemon=True, name="erratad-pull").start()
    return await answer


def _refused(folder: Path, exc: AdapterStoreError) -> RequestRefused:
    if exc.damaged:
        return RequestRefused(HTTPStatus.UNPROCESSABLE_ENTITY, "adapter_damaged", f"cannot load {folder.name}: {exc}")
    return RequestRefused(HTTPStatus.BAD_GATEWAY, "adapter_store", f"cannot pull {folder.name}: {exc}")


def _bytes(folder: Path) -> int:
    """0 for a folder that is not there, or that goes while it is read."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0
