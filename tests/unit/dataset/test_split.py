"""The side of a cluster: near the wished share, and secret."""

from __future__ import annotations

import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.dataset.split import KEY_FILE, next_split, split_key
from daemon.errors import ConfigError, DatasetError
from daemon.records import Split


def sides(count: int, fraction: float, *, key: bytes = b"key", name: str = "topic") -> list[Split]:
    splits: list[Split] = []
    for number in range(count):
        splits.append(next_split(Counter(splits), fraction, key=key, leader_text=f"{name} {number}"))
    return splits


@given(
    fraction=st.floats(min_value=0, max_value=0.95),
    clusters=st.integers(min_value=1, max_value=60),
    key=st.binary(min_size=1, max_size=32),
)
def test_the_held_out_share_stays_within_two_clusters_of_the_wish(fraction: float, clusters: int, key: bytes) -> None:
    held = sides(clusters, fraction, key=key).count(Split.HOLDOUT)
    assert held <= fraction * clusters + 2
    assert held >= min(fraction * clusters, clusters - 1) - 2


def test_without_a_holdout_fraction_nothing_is_held_out() -> None:
    assert set(sides(20, 0.0)) == {Split.TRAIN}


@given(key=st.binary(min_size=1, max_size=32))
def test_the_first_cluster_of_a_kind_can_be_learned(key: bytes) -> None:
    assert sides(1, 0.9, key=key) == [Split.TRAIN]


def test_each_key_makes_another_split_and_the_same_key_the_same_one() -> None:
    made = {key: tuple(sides(20, 0.2, key=bytes([key]))) for key in range(200)}
    assert len(set(made.values())) > 150
    assert made[1] == tuple(sides(20, 0.2, key=bytes([1])))


def test_a_sender_cannot_tell_the_side_of_a_prompt_without_the_key() -> None:
    """Over many keys, each place in the order is held out about as often as it should be, whatever the text is."""
    keys = range(2000)
    splits = [sides(21, 0.2, key=key.to_bytes(2, "big")) for key in keys]
    for place in range(1, 21):
        share = sum(one[place] is Split.HOLDOUT for one in splits) / len(splits)
        assert 0.12 < share < 0.33, place
    chosen = [Split.TRAIN, Split.TRAIN]
    held = dict.fromkeys(("short", "a longer prompt", "a longer prompt "), 0)
    for key in keys:
        for text in held:
            side = next_split(Counter(chosen), 0.2, key=key.to_bytes(2, "big"), leader_text=text)
            held[text] += side is Split.HOLDOUT
    assert all(0.35 < count / len(keys) < 0.45 for count in held.values()), held


def test_the_key_is_made_once_and_for_the_daemon_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    key = split_key(folder, None)
    assert len(key) == 32
    assert split_key(folder, None) == key
    assert split_key(tmp_path / "another", None) != key
    assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]


def test_several_processes_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(partial(split_key, variable=None), [tmp_path] * 32))) == 1


def test_a_configured_key_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLIT", "a secret")
    assert split_key(tmp_path, "SPLIT") == b"a secret"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="NOT_SET"):
        split_key(tmp_path, "NOT_SET")


def test_a_key_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"split\.key is empty; remove it"):
        split_key(tmp_path, None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="the key of the holdout cannot be used"):
        split_key(tmp_path / "file", None)
