"""What a cell trains on, and that its training ends with the measurement."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from daemon.artifacts.examples import ExampleKind
from daemon.artifacts.run_folder import DatasetManifest
from daemon.config.dataset import DatasetConfig
from daemon.config.training import TrainingConfig
from daemon.dataset.recipes import recipe
from daemon.dataset.replay import Context, Pairs
from daemon.dataset.stage import replay_size
from daemon.errors import ConfigError, TrainingError
from daemon.training import process as training_process
from tests.benchmarks.quality.cells import PREFERENCE, Answers, Cell, Trainer, Variant
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.lessons import Analyst, Collector
from tests.benchmarks.quality.probes import Scenario
from tests.benchmarks.quality.scenarios import attack, unaligned
from tests.fixtures.bench import Hijackable, asked_base
from tests.fixtures.reflection import unscored


def _cell(scenario: Scenario, **changes: Any) -> Cell:
    variant = Variant(**{"name": "x", "recipe": "mistake-analysis+correction", **changes})
    return Cell(scenario=scenario, variant=variant, seed=0, number=1, settings="d")


def _no_pairs(count: int, seed: int, contexts: Sequence[Context]) -> Pairs:
    return Pairs(replay=(), drift=(), missing=())


def _trainer(folder: Path, pairs: Callable[[int, int, Sequence[Context]], Pairs] = _no_pairs) -> Trainer:
    server = Hijackable()
    return Trainer(
        collector=Collector(base=asked_base(server), score=unscored, folder=folder, concurrency=2),
        render=lambda variant, lessons: [example for one in lessons for example in recipe(variant.recipe)(*one)],
        pairs=pairs,
        model_path=folder,
        base_fingerprint="0",
        training=TrainingConfig(),
        guidance="Answer well.",
        folder=folder,
    )


def test_trainings_end_with_the_measurement(data: PublicData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: Queue[subprocess.Popen[bytes]] = Queue()

    def start(*_args: object, **_options: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        started.put(child)
        return child

    monkeypatch.setattr(training_process, "start_trainer", start)
    trainer, cell = _trainer(tmp_path), _cell(attack(data, 0.2))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(trainer.train, cell)
        child = started.get(timeout=30)
        trainer.stop()
        with pytest.raises(TrainingError, match="attack/x/0 was not trained"):
            training.result(timeout=30)
    assert child.poll() is not None
    with pytest.raises(TrainingError, match="the measurement ends"):
        trainer.train(cell)
    assert started.empty()


def test_ablations_take_fewer_mistakes_or_those_of_another_model(data: PublicData, tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    scenario = unaligned(data, 0.2)

    def answers(**changes: Any) -> list[str]:
        analyses = trainer.examples(_cell(scenario, recipe="mistake-analysis", **changes))
        return [one.messages[-2]["content"] for one in analyses]

    everything, half = answers(), answers(every=2)
    assert len(half) == (len(everything) + 1) // 2
    shared, others = answers(answers=Answers.SHARED), answers(answers=Answers.OTHERS)
    assert 0 < len(shared) == len(others) < len(everything)
    assert set(shared) == {"A fine answer to the task."}
    assert all(one.startswith("Sure, step") for one in others)
    with pytest.raises(ConfigError, match="attack has no mistakes for x"):
        trainer.examples(_cell(attack(data, 0.2), answers=Answers.OTHERS))
    assert trainer.examples(_cell(scenario, analyst=Analyst.SELF))[0].completion.startswith("Verdict: bad. This")


def test_no_analysis_is_learned_twice_in_the_same_words_beside_corrections(data: PublicData, tmp_path: Path) -> None:
    examples = _trainer(tmp_path).examples(_cell(unaligned(data, 0.5)))
    analyses = [one.completion for one in examples if one.kind is ExampleKind.ANALYSIS]
    assert 0 < len(analyses) == len(set(analyses)) < len(examples) - len(analyses)


def test_a_cell_replays_the_share_that_its_variant_says(data: PublicData, tmp_path: Path) -> None:
    wanted: list[int] = []

    def pairs(count: int, seed: int, contexts: Sequence[Context]) -> Pairs:
        wanted.append(count)
        return _no_pairs(count, seed, contexts)

    trainer = _trainer(tmp_path, pairs)
    scenario = unaligned(data, 0.5)
    examples = len(trainer.examples(_cell(scenario)))

    per_epoch = [
        DatasetManifest.model_validate_json(trainer._files(_cell(scenario, **share))["manifest.json"]).replay_per_epoch
        for share in ({}, {"replay": 0.5}, {"replay": 0.0})
    ]

    assert per_epoch == [replay_size(examples, DatasetConfig().replay_fraction), examples, 0]
    assert wanted == [share * TrainingConfig().epochs for share in per_epoch]


@pytest.mark.parametrize("recipe", ["sft", PREFERENCE])
def test_preference_training_takes_the_place_of_the_products_trainer(
    data: PublicData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_options: object) -> subprocess.Popen[bytes]:
        started.append(command)
        raise OSError

    monkeypatch.setattr(training_process.subprocess, "Popen", start)
    with pytest.raises(OSError):
        _trainer(tmp_path).train(_cell(unaligned(data, 0.2), recipe=recipe))
    [command] = started
    module = "tests.benchmarks.quality.preference" if recipe == PREFERENCE else "daemon.training.trainer"
    assert command[1:3] == ["-m", module]
    assert command[-1].endswith("/job.json")
