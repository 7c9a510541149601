"""Training with several processes or visible GPUs trains every example, with the losses of one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from daemon.artifacts.adapter import MANIFEST_FILE, WEIGHTS_FILE
from daemon.artifacts.examples import read_examples
from daemon.artifacts.run_folder import JOB_FILE, REPLAY_FILE, TRAIN_FILE, load_manifest
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.dataset.recipes import RECIPES
from daemon.records import RunState
from daemon.store import open_store
from daemon.training.batches import TrainingSet
from daemon.training.job import TrainingJob, TrainingProgress
from tests.fixtures.recorded import COMMAND, TORCHRUN, trained_file
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained, taught_in_three_ways

pytestmark = pytest.mark.slow

SMALL_BATCHES = {"batch_tokens": 160, "dropout": 0.0}
"""Batches of one example too, so that a process has none. Dropout draws differ with the number of processes."""
TOLERANCE = 3e-3
"""Of losses and weights: float32 sums in another order, over 65 steps at a learning rate of 0.01. Processors differ."""


@dataclass(frozen=True)
class Recorded:
    """One finished training, and what each of its processes trained."""

    plan: TrainingSet
    progress: TrainingProgress
    lineage_steps: int
    reports: list[str]
    losses: list[float]
    rows: dict[int, int]
    """Examples with a loss in each step, over all processes."""
    calls: list[list[int]]
    """The steps that each process made, in order."""
    weights: dict[str, np.ndarray]


def _trained(
    folder: Path,
    model: Path,
    *,
    ranks: int = 1,
    gpus: int = 0,
    launcher: Sequence[str] = (),
    recipe: str = "mistake-analysis+correction",
    **training: Any,
) -> Recorded:
    store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}")
    run = run_to_train(store, folder, model, recipe=recipe)
    command = [*launcher, *COMMAND, str(gpus)]
    config = {**SMALL_BATCHES, "launcher": command, "timeout_s": 300.0, "max_attempts": 1, **training}
    step_until_trained(store, finetune_stage(store, folder, model, **config))
    ended = store.runs.get(run.id)
    store.close()
    assert ended.state is RunState.EVALUATING, ended.reason
    run_folder = Path(run.folder)
    job = TrainingJob.load(run_folder / JOB_FILE)
    records = [json.loads(trained_file(run_folder / JOB_FILE, rank).read_text()) for rank in range(ranks)]
    lineage = json.loads((job.adapter_folder / MANIFEST_FILE).read_text())["lineage"]
    rows: dict[int, int] = {}
    for step, count in (pair for record in records for pair in record["steps"]):
        rows[step] = rows.get(step, 0) + count
    return Recorded(
        plan=_plan(job),
        progress=TrainingProgress.load(run_folder),
        lineage_steps=lineage["steps"],
        reports=lineage["report_ids"],
        losses=records[0]["losses"],
        rows=rows,
        calls=[[step for step, _ in record["steps"]] for record in records],
        weights=load_file(job.adapter_folder / WEIGHTS_FILE),
    )


def _plan(job: TrainingJob) -> TrainingSet:
    examples = [*read_examples(job.run_folder / TRAIN_FILE), *read_examples(job.run_folder / REPLAY_FILE)]
    return TrainingSet.build(
        ChatTemplate(load_tokenizer(job.model_path), job.chat),
        examples,
        job.training,
        seed=job.seed,
        replay_per_epoch=load_manifest(job.run_folder).replay_per_epoch,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Recorded:
    """One process without torchrun, in which transformers sees two GPUs."""
    return _trained(tmp_path_factory.mktemp("alone"), tiny_model, gpus=2)


def _assert_all_was_trained(trained: Recorded) -> None:
    steps = len(trained.plan.plan)
    assert trained.rows == {step: len(batch) for step, batch in enumerate(trained.plan.plan)}
    assert trained.calls == [list(range(steps))] * len(trained.calls)
    assert trained.progress.step == trained.progress.steps == trained.lineage_steps == len(trained.losses) == steps
    lengths = [len(example) for example in trained.plan.encoded]
    assert trained.progress.tokens == sum(lengths[index] for batch in trained.plan.plan for index in batch)
    assert trained.reports == list(trained.plan.report_ids)


def test_two_ranks_train_every_example_with_the_losses_of_one(
    tmp_path: Path, tiny_model: Path, alone: Recorded
) -> None:
    together = _trained(tmp_path, tiny_model, ranks=2, launcher=TORCHRUN)

    sizes = {len(batch) for batch in together.plan.plan}
    replay = [[together.plan.encoded[index].replay for index in batch] for batch in together.plan.plan]
    assert 1 in sizes  # one process has no example
    assert any(size % 2 for size in sizes - {1})
    assert any(any(row[::2]) != any(row[1::2]) for row in replay)  # one process makes a base pass, the other none
    _assert_all_was_trained(together)
    assert together.losses == pytest.approx(alone.losses, rel=TOLERANCE, abs=TOLERANCE)
    assert together.weights.keys() == alone.weights.keys()
    for name, tensor in alone.weights.items():
        np.testing.assert_allclose(together.weights[name], tensor, rtol=TOLERANCE, atol=TOLERANCE)


def test_two_ranks_divide_the_teachers_work_and_end_as_one(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "three ways", taught_in_three_ways)
    with_teacher: dict[str, Any] = {
        "recipe": "three ways",
        "epochs": 1,
        "replay_loss": "distillation",
        "distillation": {"stop_kl": None, "hindsight_floor": 0.0},
    }
    one = _trained(tmp_path / "one", tiny_model, **with_teacher)
    two = _trained(tmp_path / "two", tiny_model, ranks=2, launcher=TORCHRUN, **with_teacher)

    _assert_all_was_trained(two)
    assert two.losses == pytest.approx(one.losses, rel=TOLERANCE, abs=TOLERANCE)
    assert two.progress.kl_to_base == pytest.approx(one.progress.kl_to_base, rel=1e-2)


def test_two_visible_gpus_without_a_launcher_leave_no_batch_out(alone: Recorded) -> None:
    _assert_all_was_trained(alone)
