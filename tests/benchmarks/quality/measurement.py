"""Measures the cells of a plan: trains, serves and asks each.

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
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from connectors.chat import ChatEndpoint
from connectors.vllm import VllmServer
from daemon.artifacts.base_model import base_fingerprint
from daemon.artifacts.examples import Example
from daemon.artifacts.files import write_atomically
from daemon.config.dataset import DatasetConfig
from daemon.config.reflection import EndpointConfig
from daemon.config.secret import secret
from daemon.config.serving import ModelConfig, ServingConfig
from daemon.config.training import TrainingConfig
from daemon.dataset.answers import Answers
from daemon.dataset.replay import Context, Pairs, ReplaySource
from daemon.dataset.teaching import LESSON_ANSWERS, Lessons, Teaching
from daemon.errors import ConfigError, ServingError
from daemon.runtime.stage import Life
from daemon.serving.managed import ManagedServer
from tests.benchmarks.quality.cells import BASE, PREFERENCE, Asker, Cell, Trainer, Variant
from tests.benchmarks.quality.lessons import Analyst, Asked, Collector
from tests.benchmarks.quality.plan import REPLAY_TOKENS, Plan, Sheet, judged
from tests.benchmarks.quality.probes import Scenario
from tests.benchmarks.quality.recognition import Recognition
from tests.benchmarks.quality.scores import is_bad
from tests.fakes.fleet import OneServer

STREAMS = 32
SERVING_STEP_S = 1.0

Say = Callable[[str], None]


def measure(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Measure every cell of the plan that is not measured yet; returns the results of all its cells and of the base.

    Raises:
        ConfigError: for a name or a file that does not exist, without TRL where a cell is trained with it, and without
            an analyst where another model is to analyse.
        TrainingError, EndpointError: when a training or the server fails; what was measured stays.
    """
    sheet = Sheet(plan)
    if any(cell.variant.recipe == PREFERENCE for cell in sheet.waiting()) and find_spec("trl") is None:
        raise ConfigError(
            f"recipe {PREFERENCE} trains with TRL: pip install -e '.[bench]', or choose others with --recipe"
        )
    if plan.analyst is None and (others := [one for one in sheet.waiting() if one.variant.analyst.is_external]):
        raise ConfigError(f"{others[0].variant.name} asks another model: name its endpoint with --analyst-url")
    with _serving(plan, sheet.serving, sheet.training, say) as server:
        return _Measurement(sheet, server=server, say=say).run()


def measured(plan: Plan) -> list[dict[str, Any]]:
    """The results of the cells that were measured already.

    Raises:
        ConfigError: for a name or a file that does not exist, and where nothing was measured.
    """
    results = Sheet(plan).results()
    if not results:
        raise ConfigError(f"{plan.out} holds no answers of these scenarios, recipes and settings; leave out --kept")
    return results


class _Measurement:
    def __init__(self, sheet: Sheet, *, server: VllmServer, say: Say) -> None:
        plan, serving = sheet.plan, sheet.serving
        self._sheet = sheet
        self._server = server
        self._say = say
        self._fingerprint = base_fingerprint(plan.model)
        self._collector = Collector(
            base=Asked(endpoint=server, model=serving.base_name),
            score=lambda messages, answer: server.score(serving.base_name, messages, answer).per_token,
            external=None if plan.analyst is None else _external(plan.analyst),
            folder=plan.out / "mistakes" / plan.model.name,
            concurrency=STREAMS,
        )
        self._recognition = Recognition(server, base_name=serving.base_name, concurrency=STREAMS)
        self._replay = ReplaySource(
            fleet=OneServer(server),
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
            render=self._render,
            pairs=self._pairs,
            model_path=plan.model,
            base_fingerprint=self._fingerprint,
            training=sheet.training,
            guidance=serving.guidance,
            folder=plan.out,
        )
        self._asker = Asker(server, guidance=serving.guidance, concurrency=STREAMS)

    def run(self) -> list[dict[str, Any]]:
        self._sheet.keep_numbers()
        for scenario in self._sheet.scenarios:
            self._base(scenario)
        cells, waiting = self._sheet.cells, self._sheet.waiting()
        self._say(f"{len(cells)} cells, {len(cells) - len(waiting)} of them measured before")
        with ThreadPoolExecutor(self._sheet.plan.trainers) as ahead:
            trained = [ahead.submit(self._trainer.train, cell) for cell in waiting]
            try:
                for cell, adapter in zip(waiting, trained, strict=True):
                    self._measure(cell, adapter.result())
            finally:
                for future in trained:
                    future.cancel()
                self._trainer.stop()
        return self._sheet.results()

    def _base(self, scenario: Scenario) -> None:
        path = self._sheet.base_result(scenario)
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
        self._keep(path, about, self._sheet.serving.base_name, scenario)

    def _measure(self, cell: Cell, adapter: Path) -> None:
        self._server.load(cell.name, adapter)
        about: dict[str, object] = {
            "scenario": cell.scenario.name,
            "variant": cell.variant.name,
            "seed": cell.seed,
            "analyst": cell.variant.analyst,
        }
        if cell.variant.analyst is not Analyst.TEMPLATE:
            analyses = self._collector.analyses(cell.scenario, cell.variant.analyst)
            about |= {"analyses": len(analyses), "analyses_kept": sum(text is not None for text in analyses.values())}
        self._keep(self._sheet.result(cell), about, cell.name, cell.scenario)
        while not self._server.unload(cell.name):
            time.sleep(0.2)

    def _keep(self, path: Path, about: Mapping[str, object], model: str, scenario: Scenario) -> None:
        started = time.monotonic()
        kept = {**about, "answers": [asdict(one) for one in self._asker.ask(model, scenario.probes)]}
        write_atomically(path, json.dumps(kept, ensure_ascii=False).encode())
        what = f"{about['scenario']}/{about['variant']}/{about['seed']}"
        self._say(f"{what}: {_summary(judged(kept, scenario)['answers'])} ({time.monotonic() - started:.0f} s)")

    def _render(self, variant: Variant, lessons: Lessons) -> list[Example]:
        """The examples, after the questions that the daemon would ask before a training."""
        sheet = self._sheet
        teaching = Teaching(
            recipe_name=variant.recipe,
            by_kind=variant.by_kind,
            answers=Answers(
                fleet=OneServer(self._server),
                base_name=sheet.serving.base_name,
                folder=sheet.plan.out / LESSON_ANSWERS,
                fingerprint=self._fingerprint,
            ),
            guidance=sheet.serving.guidance,
            config=DatasetConfig(),
        )
        while missing := teaching.missing(lessons):
            teaching.ask(missing[:STREAMS])
        examples = [example for one in lessons for example in teaching.render(*one)]
        if flips := teaching.flips():
            told = ", ".join(f"{one.flipped} of {one.lessons} {kind}" for kind, one in flips.items())
            self._say(
                f"{variant.name}: a teacher helps in {told}; recipes by kind: {teaching.by_kind or variant.recipe}"
            )
        return examples

    def _pairs(self, count: int, seed: int, contexts: Sequence[Context]) -> Pairs:
        with self._replaying:  # trainings side by side want the same answers
            wanted = partial(self._replay.pairs, self._fingerprint, count=count, seed=seed, contexts=contexts)
            while (pairs := wanted()).missing:
                self._replay.ask(self._fingerprint, pairs.missing[:STREAMS])
            return pairs


def _external(analyst: EndpointConfig) -> Asked:
    key = secret(analyst.api_key_env)
    return Asked(endpoint=ChatEndpoint(analyst.url, api_key=key), model=analyst.model)


def _summary(answers: Sequence[Mapping[str, Any]]) -> str:
    suites = sorted({(one["suite"], one["guided"]) for one in answers})
    parts = []
    for suite, guided in suites:
        of_suite = [one for one in answers if (one["suite"], one["guided"]) == (suite, guided)]
        if of_suite[0]["bits"] is not None:
            parts.append(f"{suite} {sum(one['bits'] for one in of_suite) / len(of_suite):.3f} bits")
        else:
            good = len(of_suite) - sum(map(is_bad, of_suite))
            parts.append(f"{suite}{' guided' if guided else ''} {good}/{len(of_suite)}")
    return ", ".join(parts)


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
    try:
        _until_ready(managed, published, say)
        yield published[0]
    finally:
        managed.close()


def _until_ready(managed: ManagedServer, published: Sequence[VllmServer], say: Say) -> None:
    deadline = time.monotonic() + 600.0
    sentence, life = "", Life(threading.Event())
    while not published or not published[0].ready():
        if time.monotonic() > deadline:
            raise ServingError(f"the server for the measurement did not start: {sentence}")
        step = managed.step(life)
        if step.sentence != sentence:
            sentence = step.sentence
            say(sentence)
        time.sleep(SERVING_STEP_S)
