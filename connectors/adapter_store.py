"""Adapters in an object store: the daemon publishes them, the vLLM servers pull them, and no shared disk is needed.

`STORE/ADAPTER/DIGEST/` holds the files of an adapter folder and, written last, `published.json`: their names, sizes and
SHA-256. DIGEST is the SHA-256 of that file, so a path never gets a second content, and an adapter without
`published.json` does not exist. The daemon tells a server the digest; the server checks every byte against it.

fsspec reaches the store by its protocol's name (`file`, `memory`, ...); `s3` goes through obstore. Both are imported in
a child process only (`in_child`), which is killed when a store hangs and takes no time from a server's requests.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LISTING_FILE = "published.json"
STORE_URL = r"[a-z][a-z0-9+.-]*://[^@\s?#]*[^@\s?#/]"
"""Without user and password: secrets belong into the options, and those into the environment."""
CHUNK_BYTES = 2**20
MAX_LISTING_BYTES = 2**20
S3_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "client_options": {"connect_timeout": "5s", "timeout": "120s"},
    "retry_config": {"max_retries": 3},
}
"""obstore's own are 30 s per request and ten retries."""
MIN_SECRET_CHARS = 6
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SHOWN_CHARS = 300


def options_of(text: str) -> dict[str, Any]:
    """The options of a JSON object; of an empty text, none. Raises ValueError, which shows nothing of the text."""
    try:
        options = json.loads(text or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - of a text
    return options


class AdapterStoreError(Exception):
    """The store cannot be used. `damaged`: it holds other bytes than were published, so a retry does not help."""

    def __init__(self, message: str, *, damaged: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """A published adapter: its folder's URL, the SHA-256 of its `published.json`, and the bytes of its files."""

    url: str
    listing_sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStore:
    """A store's URL, and the options that fsspec or obstore need for it; they may hold secrets."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def publish(self, name: str, folder: Path) -> StoredAdapter:
        """Upload an adapter folder, its listing last. Nothing is sent if it is there already."""
        paths = sorted(path for path in folder.iterdir() if path.is_file())
        files = [{"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths]
        listing = (json.dumps({"version": 1, "files": files}, indent=2) + "\n").encode()
        digest = hashlib.sha256(listing).hexdigest()
        stored = StoredAdapter(
            url=f"{self.url}/{name}/{digest}",
            listing_sha256=digest,
            bytes=sum(path.stat().st_size for path in paths),
        )
        system = self._system()
        if not _is_published(system, stored, paths, listing):
            system.makedirs(stored.url, exist_ok=True)
            for path in paths:
                system.put_file(str(path), f"{stored.url}/{path.name}")
            system.pipe_file(f"{stored.url}/{LISTING_FILE}", listing)
        return stored

    def pull(self, stored: StoredAdapter, folder: Path, *, max_bytes_per_s: float) -> None:
        """Download an adapter. Its folder appears by one rename, after every byte was checked and flushed.

        What an interrupted download left is used. A folder that is there already is checked again.

        Raises:
            AdapterStoreError: the store does not answer, or holds other bytes than were published.
        """
        partial = partial_folder(folder)
        with _alone(folder.parent):
            if folder.exists():
                if _is_intact(folder, stored):
                    os.utime(folder)
                    return
                shutil.rmtree(partial, ignore_errors=True)
                folder.rename(partial)
            partial.mkdir(parents=True, exist_ok=True)
            system, pace = self._system(), _Pace(max_bytes_per_s)
            for file in _read_listing(system, stored, partial):
                _fetch(system, f"{stored.url}/{file.name}", partial / file.name, file, pace)
            _publish(partial, folder)

    def remove(self, name: str) -> None:
        """Delete everything that was published under a name, listings first."""
        system, root = self._system(), f"{self.url}/{name}"
        found = system.find(root)
        for path in sorted(found, key=lambda path: (Path(path).name != LISTING_FILE, path)):
            system.rm_file(path)
        if found and system.exists(root):  # an object store has no empty folders, a file system has
            system.rm(root, recursive=True)

    def _system(self) -> Any:
        protocol = self.url.partition("://")[0]
        try:
            if protocol == "s3":
                from obstore.fsspec import FsspecStore  # noqa: PLC0415 - optional, and for the child process only

                usual = {key: {**values, **self.options.get(key, {})} for key, values in S3_DEFAULTS.items()}
                return FsspecStore(protocol, **{**self.options, **usual})
            import fsspec  # noqa: PLC0415

            return fsspec.filesystem(protocol, **self.options)
        except (ImportError, ValueError) as exc:
            raise AdapterStoreError(f"{protocol}:// cannot be used: {exc}; s3 needs `erratad[s3]`") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    bytes: int
    sha256: str


def partial_folder(folder: Path) -> Path:
    """Where a download goes until it is complete."""
    return folder.with_name(f".{folder.name}.partial")


def _is_published(system: Any, stored: StoredAdapter, paths: list[Path], listing: bytes) -> bool:
    """Whether the listing and files of the right sizes are there."""
    try:
        if system.cat_file(f"{stored.url}/{LISTING_FILE}") != listing:
            return False
        return all(system.info(f"{stored.url}/{path.name}")["size"] == path.stat().st_size for path in paths)
    except FileNotFoundError:
        return False


def _read_listing(system: Any, stored: StoredAdapter, partial: Path) -> list[_File]:
    kept = partial / LISTING_FILE
    if not kept.is_file() or _sha256(kept) != stored.listing_sha256:
        url = f"{stored.url}/{LISTING_FILE}"
        if system.info(url)["size"] > MAX_LISTING_BYTES:
            raise AdapterStoreError(f"{url} is larger than {MAX_LISTING_BYTES} bytes", damaged=True)
        kept.write_bytes(system.cat_file(url))
        if _sha256(kept) != stored.listing_sha256:
            kept.unlink()
            raise AdapterStoreError(f"{url} was changed after it was published: its SHA-256 differs", damaged=True)
    return _files(kept, stored)


def _files(listing: Path, stored: StoredAdapter) -> list[_File]:
    files = [_File(**one) for one in json.loads(listing.read_bytes())["files"]]
    if sum(file.bytes for file in files) != stored.bytes:
        raise AdapterStoreError(f"{stored.url} lists another size than {stored.bytes} bytes", damaged=True)
    for file in files:
        if not _PLAIN_NAME.fullmatch(file.name) or file.name == LISTING_FILE:
            raise AdapterStoreError(f"{stored.url} lists {file.name!r}, which is no plain file name", damaged=True)
    return files


def _is_intact(folder: Path, stored: StoredAdapter) -> bool:
    listing = folder / LISTING_FILE
    if not listing.is_file() or _sha256(listing) != stored.listing_sha256:
        return False
    wanted = {folder / file.name: file.sha256 for file in _files(listing, stored)}
    return all(path.is_file() and _sha256(path) == digest for path, digest in wanted.items())


def _fetch(system: Any, url: str, target: Path, file: _File, pace: _Pace) -> None:
    """Download a file and check it. What was left of it is kept if the whole is right, otherwise read again."""
    for _ in range(2 if target.exists() else 1):
        _download(system, url, target, file.bytes, pace)
        if _sha256(target) == file.sha256:
            return
        target.unlink()
    raise AdapterStoreError(f"{url} was changed after it was published: its SHA-256 differs", damaged=True)


def _download(system: Any, url: str, target: Path, size: int, pace: _Pace) -> None:
    with target.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        while (at := file.tell()) < size:
            chunk = system.cat_file(url, start=at, end=min(at + CHUNK_BYTES, size))
            if not chunk:
                raise AdapterStoreError(f"{url} is shorter than it was when it was published", damaged=True)
            file.write(chunk)
            pace.wait(len(chunk))


class _Pace:
    """Holds a download to a number of bytes per second, on average."""

    def __init__(self, max_bytes_per_s: float) -> None:
        self._max = max_bytes_per_s
        self._started = time.monotonic()
        self._bytes = 0

    def wait(self, read: int) -> None:
        self._bytes += read
        time.sleep(max(0.0, self._started + self._bytes / self._max - time.monotonic()))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One download at a time into a folder; it also ends the race with the child of a killed server."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".pull.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(partial: Path, folder: Path) -> None:
    for path in [*partial.iterdir(), partial]:
        _sync(path)
    partial.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_child(store: AdapterStore, call: str, *, timeout_s: float, **arguments: Any) -> dict[str, Any]:
    """Call a method of the store in a child process; `arguments` are JSON values, as is the answer.

    Raises:
        AdapterStoreError: the call failed, or took longer than `timeout_s`.
    """
    order = {"url": store.url, "options": store.options, "call": call, **arguments}
    command = [sys.executable, "-m", "connectors.adapter_store"]
    try:
        done = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AdapterStoreError(f"{store.url} did not {call} within {timeout_s:g} s") from exc
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as exc:
        said = _masked(done.stderr.strip()[-_SHOWN_CHARS:], store.options)
        raise AdapterStoreError(f"{store.url}: the process ended with code {done.returncode}: {said}") from exc
    if "error" in answer:
        raise AdapterStoreError(answer["error"], damaged=answer["damaged"])
    return answer


def _masked(text: str, options: Any) -> str:
    """The text without the values of the options, which may be secrets."""
    if isinstance(options, Mapping):
        for value in options.values():
            text = _masked(text, value)
    elif isinstance(options, str) and len(options) >= MIN_SECRET_CHARS:
        text = text.replace(options, "***")
    return text


def main() -> None:
    """Carry out one order from standard input."""
    order = json.load(sys.stdin)
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    store = AdapterStore(url=order["url"], options=order["options"])
    try:
        answer = _carry_out(store, order)
    except AdapterStoreError as exc:
        answer = {"error": str(exc), "damaged": exc.damaged}
    except Exception as exc:  # noqa: BLE001 - each protocol has its own errors; all of them mean that the store failed
        text = _masked(" ".join(str(exc).split())[:_SHOWN_CHARS], store.options)
        answer = {"error": f"{store.url}: {type(exc).__name__}: {text}", "damaged": False}
    sys.stdout.write(json.dumps(answer) + "\n")


def _carry_out(store: AdapterStore, order: Mapping[str, Any]) -> dict[str, Any]:
    if order["call"] == "publish":
        return asdict(store.publish(order["name"], Path(order["folder"])))
    if order["call"] == "remove":
        store.remove(order["name"])
        return {}
    os.nice(10)  # a server answers on the same machine
    stored = StoredAdapter(**order["stored"])
    store.pull(stored, Path(order["folder"]), max_bytes_per_s=order["max_bytes_per_s"])
    return {}


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
