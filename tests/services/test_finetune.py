"""Stage "finetune" with its real child process: torch, peft and transformers on a tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from safetensors.numpy import load_file

from daemon.artifacts.adapter import WEIGHTS_FILE, verify
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.examples import ExampleKind, read_examples
from daemon.artifacts.run_folder import JOB_FILE, REPLAY_FILE, TRAIN_FILE
from daemon.chat.template import ChatTemplate
from daemon.chat.tokenizer import load_tokenizer
from daemon.config.chat import ChatConfig
from daemon.errors import ChatDifferenceError, ServingError
from daemon.labels import LeftOut
from daemon.records import AdapterState, Run, RunState, Split
from daemon.store import Store, open_store
from daemon.training.batches import encode
from daemon.training.job import CHECKPOINTS, LOG_FILE
from tests.fixtures.life import life
from tests.fixtures.models import TARGET_MODULES
from tests.fixtures.training import finetune_stage, run_to_train, step_until_trained, training_config

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained:
    """One finished training, shared by several tests."""

    store: Store
    run: Run
    folder: Path
    said: list[str]
    beats: int
    amid: list[str]
    steps_counted: float
    tokens_counted: float

    @property
    def adapter(self) -> Path:
        return self.folder / "adapters" / "aligned-g000001"


def _metric(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    store = open_store(f"sqlite:///{folder / 'erratad.sqlite3'}")
    run = run_to_train(store, folder, tiny_model)
    stage = finetune_stage(store, folder, tiny_model)
    beats: list[None] = []
    amid: list[str] = []
    before = [_metric(f"erratad_training_{what}_total") for what in ("steps", "tokens")]
    said = [stage.step(life(heartbeat=lambda: beats.append(None), say=amid.append)).sentence]
    # another stage object: as after a crash between the adapter's publication and the hand-over
    said += step_until_trained(store, finetune_stage(store, folder, tiny_model))
    after = [_metric(f"erratad_training_{what}_total") for what in ("steps", "tokens")]
    yield Trained(
        store=store,
        run=store.runs.get(run.id),
        folder=folder,
        said=said,
        beats=len(beats),
        amid=amid,
        steps_counted=after[0] - before[0],
        tokens_counted=after[1] - before[1],
    )
    store.close()


def test_a_run_ends_with_a_verified_candidate(trained: Trained, tiny_model: Path) -> None:
    adapter = trained.store.adapters.get(trained.run.generation)
    manifest = verify(
        trained.adapter,
        name="aligned-g000001",
        base_fingerprint=base_fingerprint(tiny_model),
        max_rank=4,
        target_modules=TARGET_MODULES,
        model_path=tiny_model,
    )

    assert trained.run.state is RunState.EVALUATING, trained.run.reason
    assert adapter.state is AdapterState.CANDIDATE
    assert (adapter.path, adapter.sha256) == (str(trained.adapter), manifest.weights_sha256)
    assert trained.said[-1] == f"run 1: trained aligned-g000001 from 10 lessons in {manifest.lineage.steps} steps"


def test_the_adapter_names_the_reports_that_it_was_trained_on(trained: Trained) -> None:
    items = trained.store.runs.items(trained.run.id)
    lineage = json.loads((trained.adapter / "manifest.json").read_text())["lineage"]
    assert lineage["report_ids"] == sorted(item.report_id for item in items if item.role is Split.TRAIN)


def test_a_report_that_no_training_step_reached_is_not_listed_as_trained(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    before = {item.report_id for item in sqlite_store.runs.items(run.id) if item.role is Split.TRAIN}

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, max_tokens=300))

    run = sqlite_store.runs.get(run.id)
    assert run.state is RunState.EVALUATING, run.reason
    after = {item.report_id for item in sqlite_store.runs.items(run.id) if item.role is Split.TRAIN}
    lineage = json.loads((tmp_path / "adapters" / "aligned-g000001" / "manifest.json").read_text())["lineage"]
    assert after == set(lineage["report_ids"]) < before
    left_out = sqlite_store.left_out.of_run(run.id)
    assert {one.report_id for one in left_out} == before - after
    assert {one.reason for one in left_out} == {LeftOut.NOT_REACHED}
    assert run.progress["left_out"] == {"not_reached": len(left_out)}
    assert sqlite_store.runs.trained_on(left_out[0].report_id) == []


def test_progress_reaches_the_run_and_the_metrics(trained: Trained) -> None:
    progress = trained.run.progress
    assert progress["step"] == progress["steps"] == trained.steps_counted > 10
    assert progress["loss"] > 0
    assert progress["tokens_per_s"] > 0
    assert progress["eta_s"] == 0
    assert progress["train_seconds"] > 0
    assert trained.tokens_counted > 10 * trained.steps_counted
    assert trained.beats > 0
    assert f"run {trained.run.id}: aligned-g000001: loads the model and the examples" in trained.amid


def test_each_epoch_trains_on_replay_of_its_own(trained: Trained, tiny_model: Path) -> None:
    template = ChatTemplate(load_tokenizer(tiny_model), ChatConfig())
    tokens = {ExampleKind.REPLAY: 0, "each epoch": 0}
    for file in (TRAIN_FILE, REPLAY_FILE):
        for example in read_examples(Path(trained.run.folder) / file):
            turn = example.kind if example.kind is ExampleKind.REPLAY else "each epoch"
            tokens[turn] += len(encode(template, example, training_config(max_sequence_tokens=10_000)))
    assert tokens[ExampleKind.REPLAY] > 0
    assert trained.tokens_counted == 3 * tokens["each epoch"] + tokens[ExampleKind.REPLAY]


def test_nothing_but_the_adapter_and_the_log_is_left(trained: Trained) -> None:
    assert [path.name for path in (trained.folder / "adapters").iterdir()] == ["aligned-g000001"]
    assert not (Path(trained.run.folder) / CHECKPOINTS).exists()
    assert (Path(trained.run.folder) / LOG_FILE).exists()


def test_every_layer_learned_something(trained: Trained) -> None:
    weights = load_file(trained.adapter / WEIGHTS_FILE)
    assert len(weights) == 2 * 2 * len(TARGET_MODULES)
    assert all(np.abs(tensor).max() > 0 for tensor in weights.values())


def test_an_adapter_left_by_an_earlier_database_is_not_taken_for_this_runs(
    trained: Trained, sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    shutil.copytree(trained.adapter, tmp_path / "adapters" / "aligned-g000001")

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model))

    ended = sqlite_store.runs.get(run.id)
    assert ended.state is RunState.FAILED
    assert "was trained on another dataset" in (ended.reason or "")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"learning_rate": 1e30, "max_grad_norm": 1e30}, "lower training.learning_rate"),
        ({"learning_rate": 1e-300}, "changes nothing: every lora_B is zero"),
        ({"target_modules": ["q_proj", "w_pack"]}, "cannot both hold w_pack of LlamaForCausalLM"),
        ({"max_sequence_tokens": 5}, "longer than training.max_sequence_tokens (5)"),
    ],
    ids=["diverges", "changes nothing", "no such module", "all too long"],
)
def test_a_training_that_cannot_succeed_is_refused_at_once(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path, config: dict[str, Any], words: str
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)

    said = step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model, **config))

    ended = sqlite_store.runs.get(run.id)
    assert len(said) == 1
    assert ended.state is RunState.FAILED
    assert words in (ended.reason or "")
    assert list((tmp_path / "adapters").glob("[!.]*")) == []


def test_a_dataset_changed_after_it_was_written_is_refused(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    path = Path(run.folder) / TRAIN_FILE
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"plainly wrong", b"plainly right"))

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model))

    assert "train.jsonl was changed after it was written" in (sqlite_store.runs.get(run.id).reason or "")


def test_another_base_model_than_the_datasets_is_refused(sqlite_store: Store, tmp_path: Path, tiny_model: Path) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, other))

    assert "the base model changed" in (sqlite_store.runs.get(run.id).reason or "")


def test_a_run_whose_folder_is_gone_fails(sqlite_store: Store, tmp_path: Path, tiny_model: Path) -> None:
    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    shutil.rmtree(run.folder)

    step_until_trained(sqlite_store, finetune_stage(sqlite_store, tmp_path, tiny_model))

    assert "is gone; start a new run" in (sqlite_store.runs.get(run.id).reason or "")


def test_nothing_is_trained_while_a_server_reads_conversations_otherwise(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    found: list[Exception] = [
        ServingError("none is compared yet"),
        ChatDifferenceError("http://vllm reads it otherwise"),
    ]

    def check() -> None:
        raise found.pop(0)

    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    stage = finetune_stage(sqlite_store, tmp_path, tiny_model, check_chat=check)
    assert stage.step(life()).sentence == f"run {run.id} waits for a model server: none is compared yet"
    stage.step(life())
    failed = sqlite_store.runs.get(run.id)
    assert (failed.state, failed.reason) == (RunState.FAILED, "http://vllm reads it otherwise")
    assert not (Path(run.folder) / LOG_FILE).exists()


def test_a_section_chat_that_was_changed_after_the_run_had_begun_fails_the_run(
    sqlite_store: Store, tmp_path: Path, tiny_model: Path
) -> None:
    def not_yet() -> None:
        raise ServingError("none is compared yet")

    run = run_to_train(sqlite_store, tmp_path, tiny_model)
    finetune_stage(sqlite_store, tmp_path, tiny_model, check_chat=not_yet).step(life())
    finetune_stage(sqlite_store, tmp_path, tiny_model, chat=ChatConfig(default_system="Be kind.")).step(life())
    failed = sqlite_store.runs.get(run.id)
    assert failed.state is RunState.FAILED
    assert "the section `chat` was changed after the run had begun" in (failed.reason or "")


def test_without_a_run_the_stage_rests(sqlite_store: Store, tmp_path: Path) -> None:
    step = finetune_stage(sqlite_store, tmp_path, tmp_path).step(life())
    assert (step.sentence, step.worked) == ("no run to train", False)


def _losses(tmp_path: Path, tiny_model: Path, **training: Any) -> dict[str, list[float]]:
    store = open_store(f"sqlite:///{tmp_path / 'erratad.sqlite3'}")
    run = run_to_train(store, tmp_path, tiny_model)
    stage = finetune_stage(store, tmp_path, tiny_model, **training)
    job = stage._job(run)
    store.close()
    path = Path(run.folder) / JOB_FILE
    done = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.loss", str(path)], capture_output=True, text=True, check=False
    )
    assert job.training.replay_loss in {"kl", "cross-entropy"}
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_replay_holds_the_model_to_the_base_models_distribution(tmp_path: Path, tiny_model: Path) -> None:
    losses = _losses(tmp_path, tiny_model)

    first, changed, base = losses["replay"]
    assert first == pytest.approx(0.0, abs=1e-4)
    assert changed > 0.001
    first, changed, plain = losses["correction"]
    assert first == pytest.approx(plain, rel=1e-3)  # trimming the output layer to the completions changes no loss
    assert changed != pytest.approx(first, rel=1e-4)
    assert base == pytest.approx(plain)


def test_a_token_of_replay_counts_as_much_as_is_configured(tmp_path: Path, tiny_model: Path) -> None:
    single, triple = (
        _losses(tmp_path / str(weight), tiny_model, kl_weight=weight)["replay"][1] for weight in (1.0, 3.0)
    )
    assert triple == pytest.approx(3 * single, rel=1e-3)


def test_replay_may_take_the_base_models_answers_as_targets_instead(tmp_path: Path, tiny_model: Path) -> None:
    first, _, base = _losses(tmp_path, tiny_model, replay_loss="cross-entropy")["replay"]
    assert first == pytest.approx(base, rel=1e-3)
    assert first > 1
