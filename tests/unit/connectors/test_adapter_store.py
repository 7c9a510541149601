"""Publishing and pulling adapters, over fsspec's `file` and `memory`."""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from connectors import adapter_store
from connectors.adapter_store import AdapterStore, AdapterStoreError, StoredAdapter, in_child, partial_folder

NAME = "aligned-g000001"
FAST = 1e12


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> AdapterStore:
    place = f"/{uuid.uuid4().hex}" if request.param == "memory" else str(tmp_path / "store")
    return AdapterStore(url=f"{request.param}://{place}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 12_000)
    return folder


def _pull(store: AdapterStore, stored: StoredAdapter, target: Path) -> None:
    store.pull(stored, target, max_bytes_per_s=FAST)


def _system(store: AdapterStore) -> Any:
    return fsspec.filesystem(store.url.partition("://")[0])


def test_what_is_pulled_is_what_was_published(store: AdapterStore, folder: Path, tmp_path: Path) -> None:
    stored = store.publish(NAME, folder)
    assert stored.bytes == 2 + 256 * 12_000
    target = tmp_path / "cache" / NAME
    _pull(store, stored, target)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (target / name).read_bytes() == (folder / name).read_bytes()
    listing = (target / "published.json").read_bytes()
    assert hashlib.sha256(listing).hexdigest() == stored.listing_sha256
    assert not partial_folder(target).exists()


def test_a_path_never_gets_a_second_content(store: AdapterStore, folder: Path) -> None:
    first = store.publish(NAME, folder)
    assert store.publish(NAME, folder) == first
    (folder / "adapter_config.json").write_text('{"r": 8}')
    assert store.publish(NAME, folder).url != first.url


def test_an_upload_that_was_cut_off_is_no_adapter_and_is_completed_by_the_next(
    store: AdapterStore, folder: Path, tmp_path: Path
) -> None:
    stored = store.publish(NAME, folder)
    _system(store).rm_file(f"{stored.url}/published.json")
    with pytest.raises(FileNotFoundError):
        _pull(store, stored, tmp_path / "cache" / NAME)
    store.publish(NAME, folder)
    _system(store).pipe_file(f"{stored.url}/adapter_model.safetensors", b"short")
    store.publish(NAME, folder)
    _pull(store, stored, tmp_path / "cache" / NAME)


@pytest.mark.parametrize("changed", ["adapter_config.json", "published.json", "adapter_model.safetensors"])
def test_what_was_changed_in_the_store_is_refused_by_name_and_leaves_no_folder(
    store: AdapterStore, folder: Path, tmp_path: Path, changed: str
) -> None:
    stored, target = store.publish(NAME, folder), tmp_path / "cache" / NAME
    before = _system(store).cat_file(f"{stored.url}/{changed}")
    _system(store).pipe_file(f"{stored.url}/{changed}", before[:-1] + b"X")
    with pytest.raises(AdapterStoreError, match=rf"{changed} was changed after it was published") as caught:
        _pull(store, stored, target)
    assert caught.value.damaged
    assert not target.exists()
    _system(store).pipe_file(f"{stored.url}/{changed}", before)
    _pull(store, stored, target)


def test_a_shorter_file_is_refused(store: AdapterStore, folder: Path, tmp_path: Path) -> None:
    stored = store.publish(NAME, folder)
    _system(store).pipe_file(f"{stored.url}/adapter_model.safetensors", b"short")
    with pytest.raises(AdapterStoreError, match="is shorter than it was"):
        _pull(store, stored, tmp_path / "cache" / NAME)


def test_a_download_that_was_cut_off_goes_on_where_it_ended(
    store: AdapterStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, target = store.publish(NAME, folder), tmp_path / "cache" / NAME
    read: list[int] = []

    def wait(_pace: object, size: int) -> None:
        read.append(size)
        if len(read) == 3:
            raise ConnectionError("cut")

    monkeypatch.setattr(adapter_store._Pace, "wait", wait)
    with pytest.raises(ConnectionError):
        _pull(store, stored, target)
    assert not target.exists()
    _pull(store, stored, target)
    assert sum(read) == stored.bytes, "nothing is read twice"


def test_leftovers_of_another_content_are_read_again(store: AdapterStore, folder: Path, tmp_path: Path) -> None:
    stored, target = store.publish(NAME, folder), tmp_path / "cache" / NAME
    partial = partial_folder(target)
    partial.mkdir(parents=True)
    (partial / "adapter_model.safetensors").write_bytes(b"x" * stored.bytes)
    _pull(store, stored, target)


def test_a_cached_folder_is_checked_again_without_the_store_and_mended_with_it(
    store: AdapterStore, folder: Path, tmp_path: Path
) -> None:
    stored, target = store.publish(NAME, folder), tmp_path / "cache" / NAME
    _pull(store, stored, target)
    (target / "adapter_config.json").write_text("[]")
    _pull(store, stored, target)
    assert (target / "adapter_config.json").read_text() == "{}"
    _pull(AdapterStore(url="nothing://there"), stored, target)


def test_a_listing_with_a_path_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    listing = json.dumps({"version": 1, "files": [{"name": "../../evil", "bytes": 1, "sha256": "0" * 64}]}).encode()
    digest = hashlib.sha256(listing).hexdigest()
    stored = StoredAdapter(url=f"{store.url}/{NAME}/{digest}", listing_sha256=digest, bytes=1)
    _system(store).makedirs(stored.url, exist_ok=True)
    _system(store).pipe_file(f"{stored.url}/published.json", listing)
    with pytest.raises(AdapterStoreError, match="no plain file name"):
        _pull(store, stored, tmp_path / "cache" / NAME)
    with pytest.raises(AdapterStoreError, match="lists another size than 7 bytes"):
        _pull(store, replace(stored, bytes=7), tmp_path / "cache" / NAME)


def test_removing_takes_all_of_a_name_and_nothing_of_another(store: AdapterStore, folder: Path) -> None:
    store.publish(NAME, folder)
    weaker = store.publish(f"{NAME}-s75", folder)
    store.remove(NAME)
    store.remove(NAME)
    assert {path.rpartition("/")[0] for path in _system(store).find(store.url)} == {
        _system(store)._strip_protocol(weaker.url)
    }


def test_a_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(adapter_store.time, "sleep", slept.append)
    monkeypatch.setattr(adapter_store.time, "monotonic", lambda: 100.0)
    pace = adapter_store._Pace(1000)
    pace.wait(500)
    pace.wait(1500)
    assert slept == [0.5, 2.0]


def test_a_child_tells_errors_without_secrets_and_is_ended_when_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AdapterStore(url="sftp://nowhere/x", options={"password": "hush-hush"})
    assert "hush" not in repr(store)
    with pytest.raises(AdapterStoreError) as caught:
        in_child(store, "remove", timeout_s=60, name="hush-hush")
    assert "hush" not in str(caught.value)
    monkeypatch.setattr(sys, "executable", "/bin/cat")  # `cat -m` ends at once, with words on standard error
    with pytest.raises(AdapterStoreError, match="the process ended with code 1"):
        in_child(store, "remove", timeout_s=60, name="x")
    monkeypatch.setattr(sys, "executable", str(_script(tmp_path / "hangs", "#!/bin/sh\nexec sleep 60\n")))
    with pytest.raises(AdapterStoreError, match=r"did not remove within 0\.2 s"):
        in_child(store, "remove", timeout_s=0.2, name="x")


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
