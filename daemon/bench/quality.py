"""`erratad bench quality`: recipes side by side on the same mistakes, at the same token budget, over several seeds.

Everything that was trained or asked is kept in the output folder, so that an interrupted measurement goes on where it
was; the next cells are trained beside the questions to the current one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from connectors.vllm import VllmServer
from daemon.artifact import base_fingerprint
from daemon.bench.cells import BASE, PREFERENCE, Answered, Answers, Asker, Cell, Trainer, Variant
from daemon.bench.data import PublicData
from daemon.bench.lessons import Analyst, Collector
from daemon.bench.probes import Scenario, digest, scenario_key
from daemon.bench.recognition import Recognition
from daemon.bench.scenarios import SCENARIOS
from daemon.config import ModelConfig, ServingConfig, TrainingConfig
from daemon.config_dataset import DatasetConfig
from daemon.durable import write_atomically
from daemon.errors import ConfigError, ServingError
from daemon.replay import CONCURRENCY, Context, Pairs, Replay
from daemon.vllm_server import ManagedServer

T = TypeVar("T")

STREAMS = 32
REPLAY_TOKENS = 96
SERVING_STEP_S = 1.0
RESULTS = "results"
"""Folder of the answers, a file per cell; what lies there already is not measured again."""

FULL = "mistake-analysis+correction"
RECIPES = (
    Variant(name=FULL, recipe=FULL),
    Variant(name="mistake-analysis", recipe="mistake-analysis"),
    Variant(name="sft", recipe="sft"),
    Variant(name="chain-of-hindsight", recipe="chain-of-hindsight"),
    Variant(name="critique-revise", recipe="critique-revise"),
    Variant(name="preference", recipe=PREFERENCE, training={"learning_rate": 2e-5}),
)
ABLATIONS = (
    Variant(name="self-analysis", recipe=FULL, analyst=Analyst.SELF),
    Variant(name="unguided-analysis", recipe=FULL, analyst=Analyst.UNGUIDED),
    Variant(name="half-the-mistakes", recipe=FULL, every=2),
    Variant(name="quarter-of-the-mistakes", recipe=FULL, every=4),
    Variant(name="own-mistakes", recipe=FULL, answers=Answers.SHARED),
    Variant(name="others-mistakes", recipe=FULL, answers=Answers.OTHERS),
    Variant(name="cross-entropy-replay", recipe=FULL, training={"replay_loss": "cross-entropy"}),
    Variant(name="no-replay", recipe=FULL, replay=0.0),
    Variant(name="replay-out-of-context", recipe=FULL, in_context=False),
)
"""All vary the default recipe; own and others' mistakes are those of the prompts for which both answers are known."""
VARIANTS = {variant.name: variant for variant in (*RECIPES, *ABLATIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one measurement covers."""

    data: Path
    model: Path
    out: Path
    scenarios: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    token_budget: int
    training: Mapping[str, Any]
    """Keys of TrainingConfig in which all trainings differ from the product's defaults."""
    size: float = 1.0
    threads: int = 1
    trainers: int = 1


Say = Callable[[str], None]


def measure(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Measure every cell of the plan that is not measured yet; returns the results of all its cells and of the base.

    Raises:
        ConfigError: for a name or a file that does not exist.
        TrainingError, EndpointError: when a training or the server fails; what was measured stays.
    """
    scenarios = [_named(SCENARIOS, name, "scenario")(PublicData(plan.data), plan.size) for name in plan.scenarios]
    variants = [_named(VARIANTS, name, "recipe") for name in plan.variants]
    serving = ServingConfig(
        device="auto", port=0, cpu_threads=plan.threads, max_model_len=1024, alias="bench", max_loras=4
    )
    training = TrainingConfig(
        threads=plan.threads,
        epochs=100,
        max_tokens=plan.token_budget,
        batch_tokens=256,
        max_sequence_tokens=512,
        checkpoint_every_steps=1000,
        **plan.training,
    )
    with _serving(plan, serving, training, say) as server:
        measurement = _Measurement(
            plan,
            scenarios=scenarios,
            variants=variants,
            serving=serving,
            training=training,
            server=server,
            say=say,
        )
        return measurement.run()


class _Measurement:
    def __init__(
        self,
        plan: Plan,
        *,
        scenarios: Sequence[Scenario],
        variants: Sequence[Variant],
        serving: ServingConfig,
        training: TrainingConfig,
        server: VllmServer,
        say: Say,
    ) -> None:
        self._plan = plan
        self._serving = serving
        self._server = server
        self._say = say
        self._scenarios = scenarios
        self._dtype = training.dtype
        self._cells = list(self._number(scenarios, variants, training))
        self._fingerprint = base_fingerprint(plan.model)
        self._collector = Collector(
            base=server, base_name=serving.base_name, folder=plan.out / "mistakes", concurrency=STREAMS
        )
        self._recognition = Recognition(server, base_name=serving.base_name, concurrency=STREAMS)
        self._replay = Replay(
            servers=_One(server),
            base_name=serving.base_name,
            prompts=None,
            max_tokens=REPLAY_TOKENS,
            cache_dir=plan.out / "replay",
            guidance=serving.guidance,
            in_context=DatasetConfig().replay_in_context,
        )
        self._replaying = threading.Lock()
        self._trainer = Trainer(
            collector=self._collector,
            pairs=self._pairs,
            model_path=plan.model,
            base_fingerprint=self._fingerprint,
            training=training,
            folder=plan.out,
        )
        self._asker = Asker(server, guidance=serving.guidance, concurrency=STREAMS)

    def _number(
        self, scenarios: Sequence[Scenario], variants: Sequence[Variant], training: TrainingConfig
    ) -> Iterator[Cell]:
        """Cells keep their number, and so their adapter, when a later plan has more of them."""
        path = self._plan.out / "cells.json"
        known: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        for seed in self._plan.seeds:
            for scenario in scenarios:
                for variant in variants:
                    settings = digest(
                        [asdict(variant), training.model_dump(), scenario_key(scenario), self._serving.guidance]
                    )
                    key = f"{scenario.name}/{variant.name}/{seed}/{settings}"
                    number = known.setdefault(key, len(known) + 1)
                    yield Cell(scenario=scenario, variant=variant, seed=seed, number=number, settings=settings)
        write_atomically(path, json.dumps(known, indent=1).encode())

    def run(self) -> list[dict[str, Any]]:
        for scenario in self._scenarios:
            self._base(scenario)
        waiting = [cell for cell in self._cells if not self._result(cell).exists()]
        self._say(f"{len(self._cells)} cells, {len(self._cells) - len(waiting)} of them measured before")
        with ThreadPoolExecutor(self._plan.trainers) as ahead:
            trained = [ahead.submit(self._trainer.train, cell) for cell in waiting]
            try:
                for cell, adapter in zip(waiting, trained, strict=True):
                    self._measure(cell, adapter.result())
            finally:
                for future in trained:
                    future.cancel()
                self._trainer.stop()
        kept = [*(self._base_result(scenario) for scenario in self._scenarios), *map(self._result, self._cells)]
        return [json.loads(path.read_bytes()) for path in kept]

    def _base(self, scenario: Scenario) -> None:
        path = self._base_result(scenario)
        if path.exists():
            return
        mistakes = self._collector.mistakes(scenario)
        about = {
            "scenario": scenario.name,
            "variant": BASE,
            "seed": None,
            "traps": len(scenario.traps),
            "mistakes": len(mistakes),
            "recognised": [asdict(one) for one in self._recognition.judge(mistakes)],
        }
        self._keep(path, about, self._serving.base_name, scenario)

    def _measure(self, cell: Cell, adapter: Path) -> None:
        self._server.load(cell.name, adapter)
        about = {"scenario": cell.scenario.name, "variant": cell.variant.name, "seed": cell.seed}
        self._keep(self._result(cell), about, cell.name, cell.scenario)
        while not self._server.unload(cell.name):
            time.sleep(0.2)

    def _keep(self, path: Path, about: Mapping[str, object], model: str, scenario: Scenario) -> None:
        started = time.monotonic()
        answers = self._asker.ask(model, scenario.probes)
        kept = {**about, "answers": [asdict(one) for one in answers]}
        write_atomically(path, json.dumps(kept, ensure_ascii=False).encode())
        what = f"{about['scenario']}/{about['variant']}/{about['seed']}"
        self._say(f"{what}: {_summary(answers)} ({time.monotonic() - started:.0f} s)")

    def _base_result(self, scenario: Scenario) -> Path:
        settings = digest([scenario_key(scenario), self._serving.guidance, self._dtype])
        name = f"{scenario.name}-{BASE}-{settings}"
        return self._plan.out / RESULTS / f"{name}.json"

    def _result(self, cell: Cell) -> Path:
        return self._plan.out / RESULTS / f"{cell.key.replace('/', '-')}-{cell.settings}.json"

    def _pairs(self, count: int, seed: int, contexts: Sequence[Context]) -> Pairs:
        with self._replaying:  # trainings side by side want the same answers
            wanted = partial(self._replay.pairs, self._fingerprint, count=count, seed=seed, contexts=contexts)
            while (pairs := wanted()).missing:
                self._replay.ask(self._fingerprint, pairs.missing[:CONCURRENCY])
            return pairs


def _summary(answers: Sequence[Answered]) -> str:
    suites = sorted({(one.suite, one.guided) for one in answers})
    parts = []
    for suite, guided in suites:
        of_suite = [one for one in answers if (one.suite, one.guided) == (suite, guided)]
        if of_suite[0].bits is not None:
            parts.append(f"{suite} {sum(one.bits or 0 for one in of_suite) / len(of_suite):.3f} bits")
        else:
            parts.append(
                f"{suite}{' guided' if guided else ''} {sum(bool(one.good) for one in of_suite)}/{len(of_suite)}"
            )
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class _One:
    """A fleet of one server."""

    server: VllmServer

    def any(self) -> VllmServer:
        return self.server


@contextmanager
def _serving(plan: Plan, serving: ServingConfig, training: TrainingConfig, say: Say) -> Iterator[VllmServer]:
    """A managed vLLM server, supervised while the measurement runs; it computes in the format that trainings do."""
    published: list[VllmServer] = []
    managed = ManagedServer(
        model=ModelConfig(path=plan.model, dtype=training.dtype),
        serving=serving,
        training=training,
        data_dir=plan.out,
        publish=published.extend,
    )
    stop = threading.Event()
    try:
        _until_ready(managed, published, stop, say)
        yield published[0]
    finally:
        managed.close()


def _until_ready(managed: ManagedServer, published: Sequence[VllmServer], stop: threading.Event, say: Say) -> None:
    deadline = time.monotonic() + 600.0
    sentence = ""
    while not published or not published[0].ready():
        if time.monotonic() > deadline:
            raise ServingError(f"the server for the measurement did not start: {sentence}")
        step = managed.step(stop)
        if step.sentence != sentence:
            sentence = step.sentence
            say(sentence)
        time.sleep(SERVING_STEP_S)


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise ConfigError(f"no {what} {name!r}; choose one of {', '.join(sorted(known))}")
    return known[name]
