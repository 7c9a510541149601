"""One cell of the table: a variant trained on a scenario's mistakes with one seed, and its answers to the probes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from connectors.guidance import with_guidance
from connectors.vllm import VllmServer
from daemon.adapter_names import adapter_name
from daemon.artifacts.examples import Example, to_jsonl
from daemon.artifacts.files import publish_files, write_atomically
from daemon.artifacts.run_folder import JOB_FILE, MANIFEST_FILE, REPLAY_FILE, TRAIN_FILE, DatasetFile, DatasetManifest
from daemon.config.dataset import DatasetConfig
from daemon.config.training import TrainingConfig
from daemon.dataset.golden import golden_pairs
from daemon.dataset.recipes import without_repeats
from daemon.dataset.replay import Context, Pairs
from daemon.dataset.stage import complement_size, replay_in_all, replay_size
from daemon.dataset.teaching import Lessons
from daemon.errors import ConfigError, TrainingError
from daemon.evaluation.measurement import bits_per_token
from daemon.text.similarity import Words
from daemon.training import process as training_process
from daemon.training.job import TrainingJob, TrainingProgress
from tests.benchmarks.quality.lessons import NO_TIME, PATIENCE_S, Analyst, Collector, Mistake
from tests.benchmarks.quality.probes import Probe, Scenario, Wants

BASE = "base"
PREFERENCE = "preference"
"""No recipe of the product: it trains away from the flagged answer, with TRL."""
PREFERENCE_LAUNCHER = (sys.executable, "-m", "tests.benchmarks.quality.preference")
"""Stands before the command of the product's trainer, and trains in its place."""
PAIRS_FILE = "pairs.jsonl"
PROBE_TOKENS: Mapping[str, int] = {"over-refusal": 24, "harmful": 24, "leak": 40, "leak-benign": 24, "under-attack": 40}
"""Longest answers; a refusal stands at the head of one."""
OTHER_TOKENS = 32


class Answers(StrEnum):
    """The model whose bad answers are learned from. `SHARED`: its own, where another model's is known, too."""

    OWN = "own"
    SHARED = "shared"
    OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A recipe and the source of its lessons. `training`: keys of TrainingConfig that differ."""

    name: str
    recipe: str
    analyst: Analyst = Analyst.TEMPLATE
    every: int = 1
    """2: every second mistake is used, and so on; the token budget stays the same."""
    answers: Answers = Answers.OWN
    replay: float = DatasetConfig().replay_fraction
    """Share of replay among the examples of an epoch."""
    golden: float = DatasetConfig().golden_fraction
    """Share of golden pairs among those that are not replay."""
    in_context: bool = True
    """Whether a share of them stands under the mistakes' system messages, as `dataset.replay_in_context` says."""
    training: Mapping[str, Any] = field(default_factory=dict)
    by_kind: Mapping[str, str] = field(default_factory=dict)
    """Kinds of mistakes with another recipe, as in `dataset.recipes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    scenario: Scenario
    variant: Variant
    seed: int
    number: int
    """Unique among the cells of one output folder: names the adapter."""
    settings: str
    """Digest of all that the cell's answers depend on."""

    @property
    def key(self) -> str:
        return f"{self.scenario.name}/{self.variant.name}/{self.seed}"

    @property
    def name(self) -> str:
        return adapter_name("bench", self.number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answer of one model to one probe; `bits` per token where a text was scored. It is judged when it is read."""

    suite: str
    id: str
    guided: bool
    text: str = ""
    bits: float | None = None


class Trainer:
    """Trains cells through the product's own training child."""

    def __init__(
        self,
        *,
        collector: Collector,
        render: Callable[[Variant, Lessons], list[Example]],
        pairs: Callable[[int, int, Sequence[Context]], Pairs],
        model_path: Path,
        base_fingerprint: str,
        training: TrainingConfig,
        guidance: str,
        folder: Path,
    ) -> None:
        self._collector = collector
        self._render = render
        self._pairs = pairs
        self._model_path = model_path
        self._base_fingerprint = base_fingerprint
        self._training = training
        self._guidance = guidance
        self._folder = folder
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._starting = threading.Lock()

    def train(self, cell: Cell) -> Path:
        """The adapter folder of a cell; a cell is trained only once.

        Raises:
            TrainingError: when the child fails, with the end of its log.
        """
        run_folder = self._folder / "runs" / cell.name
        job = TrainingJob(
            run_id=cell.number,
            generation=cell.number,
            name=cell.name,
            recipe=cell.variant.recipe,
            seed=cell.seed,
            run_folder=run_folder,
            adapters_dir=self._folder / "adapters",
            model_path=self._model_path,
            base_fingerprint=self._base_fingerprint,
            training=self._training.model_copy(update=dict(cell.variant.training)),
        )
        if job.adapter_folder.exists():
            return job.adapter_folder
        job.adapters_dir.mkdir(parents=True, exist_ok=True)
        if not run_folder.exists():
            publish_files(run_folder, self._files(cell))
        write_atomically(run_folder / JOB_FILE, job.model_dump_json(indent=2).encode())
        launcher = PREFERENCE_LAUNCHER if cell.variant.recipe == PREFERENCE else ()
        with self._starting:
            if self._stopped:
                raise TrainingError(f"{cell.key} is not trained: the measurement ends")
            child = training_process.start_trainer(job, launcher=launcher)
            self._children.add(child)
        try:
            child.wait()
        finally:
            training_process.stop_trainer(child)
            self._children.discard(child)
        if not job.adapter_folder.exists():
            reason = TrainingProgress.load(run_folder).reason or training_process.log_tail(run_folder)
            raise TrainingError(f"{cell.key} was not trained: {reason}")
        return job.adapter_folder

    def stop(self) -> None:
        """End the trainings that run, from another thread; `train` raises there. Checkpoints let them go on later."""
        with self._starting:
            self._stopped = True
        for child in tuple(self._children):
            training_process.stop_trainer(child)

    def _files(self, cell: Cell) -> dict[str, bytes]:
        if cell.variant.recipe == PREFERENCE:
            examples: list[Example] = []
            replay: tuple[Example, ...] = ()
            golden: tuple[Example, ...] = ()
            replay_per_epoch = 0
            contents = {PAIRS_FILE: _pairs(self._mistakes(cell))}
        else:
            examples = self.examples(cell)
            contexts = [Context.of(mistake.flagged) for mistake in self._mistakes(cell) if cell.variant.in_context]
            replay_per_epoch = replay_size(len(examples), cell.variant.replay)
            bound = DatasetConfig().max_replay_pairs
            wanted = replay_in_all(replay_per_epoch, self._training.epochs, at_most=bound)
            replay = self._pairs(wanted, cell.seed, contexts).replay
            golden = self._golden(cell, complement_size(len(examples), cell.variant.golden))
            contents = {TRAIN_FILE: to_jsonl(examples), REPLAY_FILE: to_jsonl([*replay, *golden])}
        manifest = DatasetManifest(
            run_id=cell.number,
            run_created_at=NO_TIME,
            generation=cell.number,
            recipe=cell.variant.recipe,
            seed=cell.seed,
            base_fingerprint=self._base_fingerprint,
            files={
                name: DatasetFile(sha256=hashlib.sha256(data).hexdigest(), lines=data.count(b"\n"), report_ids=())
                for name, data in contents.items()
            },
            items=(),
            replay_per_epoch=replay_per_epoch,
            examples=Counter(example.kind.value for example in (*examples, *replay, *golden)),
            left_out={},
        )
        return {**contents, MANIFEST_FILE: manifest.encode()}

    def _golden(self, cell: Cell, count: int) -> tuple[Example, ...]:
        """Those that are shipped, of which none resembles a probe."""
        return golden_pairs(
            None, count=count, seed=cell.seed, guidance=self._guidance, vectorizer=Words(), similarity=1.0
        ).pairs

    def examples(self, cell: Cell) -> list[Example]:
        mistakes = self._mistakes(cell)
        lessons = self._collector.lessons(cell.scenario, mistakes, cell.variant.analyst)
        reports = [mistake.report() for mistake in mistakes]
        return without_repeats(self._render(cell.variant, [*zip(reports, lessons, strict=True)]))

    def _mistakes(self, cell: Cell) -> list[Mistake]:
        mistakes = self._collector.mistakes(cell.scenario)
        answers = cell.variant.answers
        if answers is not Answers.OWN:
            mistakes = [mistake for mistake in mistakes if mistake.trap.others is not None]
        if answers is Answers.OTHERS:
            mistakes = [replace(mistake, response=mistake.trap.others or "") for mistake in mistakes]
        if not mistakes:
            raise ConfigError(f"{cell.scenario.name} has no mistakes for {cell.variant.name}; leave that out")
        return mistakes[:: cell.variant.every]


def _pairs(mistakes: Sequence[Mistake]) -> bytes:
    """Lines of prompt, chosen and rejected, as TRL takes conversations."""
    rows = (
        {
            "id": mistake.trap.id,
            "prompt": list(mistake.trap.messages),
            "chosen": [{"role": "assistant", "content": mistake.correction}],
            "rejected": [{"role": "assistant", "content": mistake.response}],
        }
        for mistake in mistakes
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


class Asker:
    """Puts the probes to a model on the server, with and without guidance."""

    def __init__(self, server: VllmServer, *, guidance: str, concurrency: int) -> None:
        self._server = server
        self._guidance = guidance
        self._concurrency = concurrency

    def ask(self, model: str, probes: Sequence[Probe]) -> list[Answered]:
        questions = [(probe, guided) for probe in probes for guided in _arms(probe)]
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda question: self._ask(model, *question), questions))

    def _ask(self, model: str, probe: Probe, guided: bool) -> Answered:
        messages = with_guidance(probe.messages, self._guidance if guided else "")
        if probe.wants is Wants.TEXT:
            bits = bits_per_token(self._server, model, messages, probe.reference or "")
            return Answered(suite=probe.suite, id=probe.id, guided=guided, bits=bits)
        limit = PROBE_TOKENS.get(probe.suite, OTHER_TOKENS)
        text = self._server.chat(model, messages, max_tokens=limit, timeout_s=PATIENCE_S).text
        return Answered(suite=probe.suite, id=probe.id, guided=guided, text=text)


def _arms(probe: Probe) -> tuple[bool, ...]:
    """People's texts are scored without guidance only: they were written without it."""
    return (False,) if probe.wants is Wants.TEXT else (True, False)
