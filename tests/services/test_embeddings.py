"""Comparing texts by embeddings: a real child process over a tiny model, its files, and its failures."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from daemon.config.dataset import DatasetConfig
from daemon.dataset.embeddings import Embeddings, Matrix, vectorizer_of
from daemon.dataset.replay import read_prompts
from daemon.errors import ConfigError, DatasetError, StoppedError
from daemon.text.similarity import Words, cosines
from tests.fixtures.life import life

TEXTS = ["How do I clean a leather sofa?", "Print the secret code.", "", "How do I clean a leather couch?"]


@pytest.fixture
def beats() -> list[None]:
    return []


@pytest.fixture
def compare(tmp_path: Path, beats: list[None]) -> Callable[..., Embeddings]:
    def make(
        model: Path,
        *,
        stop: threading.Event | None = None,
        device: str = "cpu",
        known: dict[str, Matrix] | None = None,
    ) -> Embeddings:
        made = vectorizer_of(
            DatasetConfig(similarity_by="embeddings", embedding_device=device),
            model_path=model,
            cache_dir=tmp_path / "embeddings",
            life=life(stop, heartbeat=lambda: beats.append(None)),
            known=known,
        )
        assert isinstance(made, Embeddings)
        return made

    return make


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}


def test_vectors_are_made_once_by_a_child_and_kept_for_as_long_as_they_are_asked_for(
    tmp_path: Path, tiny_model: Path, compare: Callable[..., Embeddings], beats: list[None]
) -> None:
    by_child = compare(tiny_model).vectors(TEXTS)

    assert beats, "a child that takes seconds must not make the stage look stalled"
    assert by_child.shape[0] == len(TEXTS)
    assert np.linalg.norm(by_child, axis=1) == pytest.approx(1.0, abs=1e-5)
    alike = cosines(by_child, by_child)
    assert alike[0, 3] > alike[0, 1]
    made = _files(tmp_path / "embeddings")
    assert {path.suffix for path in made} == {".npy"}

    again = compare(tiny_model)
    assert np.array_equal(again.vectors(TEXTS[::-1]), by_child[::-1])
    assert _files(tmp_path / "embeddings") == made
    again.vectors([TEXTS[0]])
    ordinary = {prompt[-1]["content"] for prompt in read_prompts(None)}
    assert len(made) == len(ordinary | set(TEXTS))

    # a new vectorizer was asked for one text only
    later = compare(tiny_model)
    later.vectors([TEXTS[0]])
    (tmp_path / "embeddings" / "of-another-model").mkdir()
    later.forget_unused()
    assert len(_files(tmp_path / "embeddings")) == len(ordinary | {TEXTS[0]})
    assert not (tmp_path / "embeddings" / "of-another-model").exists()


def test_steps_that_share_the_known_vectors_read_each_from_disk_once(
    tmp_path: Path, tiny_model: Path, compare: Callable[..., Embeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, Matrix] = {}
    first = compare(tiny_model, known=known).vectors(TEXTS)
    monkeypatch.setattr(np, "load", None)  # whatever reads a file now fails
    second = compare(tiny_model, known=known)
    assert np.array_equal(second.vectors(TEXTS), first)
    second.forget_unused()
    assert known == {}


def test_the_ordinary_prompts_are_the_centre_of_what_is_compared(
    tmp_path: Path, tiny_model: Path, compare: Callable[..., Embeddings]
) -> None:
    ordinary = [prompt[-1]["content"] for prompt in read_prompts(None)]
    alike = cosines(*[compare(tiny_model).vectors(ordinary)] * 2)
    others = alike[~np.eye(len(ordinary), dtype=bool)]
    assert abs(others.mean()) < 0.05


def test_a_child_that_fails_is_quoted_with_the_next_step(
    tmp_path: Path, tiny_model: Path, compare: Callable[..., Embeddings]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / "config.json").write_text('{"model_type": "no such kind"}')
    with pytest.raises(DatasetError, match=r"(?s)dataset\.embedding_model.*exited with code 1.*no such kind") as caught:
        compare(broken).vectors(TEXTS)
    assert "set dataset.similarity_by to words" in str(caught.value)


def test_a_folder_without_a_model_is_named(tmp_path: Path, compare: Callable[..., Embeddings]) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.embedding_model: .*absent"):
        compare(tmp_path / "absent").vectors(TEXTS)


def test_a_daemon_that_stops_does_not_wait_for_the_child(tiny_model: Path, compare: Callable[..., Embeddings]) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError, match="the next start continues"):
        compare(tiny_model, stop=stop).vectors(TEXTS)


def test_words_need_no_model(tmp_path: Path) -> None:
    made = vectorizer_of(DatasetConfig(), model_path=tmp_path, cache_dir=tmp_path, life=life())
    assert isinstance(made, Words)
