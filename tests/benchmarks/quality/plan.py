"""What a measurement covers: variants of the recipe, the cells of a plan, and the files that keep their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from daemon.artifacts.files import write_atomically
from daemon.artifacts.jsonl import source_of
from daemon.config.dataset import MEASURED_RECIPES, DatasetConfig
from daemon.config.reflection import EndpointConfig
from daemon.config.serving import ServingConfig
from daemon.config.training import TrainingConfig
from daemon.dataset.recipes import AUTO
from daemon.dataset.teachers import TAUGHT
from daemon.errors import ConfigError
from tests.benchmarks.quality.cells import BASE, PREFERENCE, Answers, Cell, Variant
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.lessons import Analyst
from tests.benchmarks.quality.probes import Scenario, digest, scenario_key
from tests.benchmarks.quality.scenarios import SCENARIOS

T = TypeVar("T")

REPLAY_TOKENS = 96
ANSWERS = "results"
"""Folder of the answers, a file per cell; a cell whose file is there is not measured again."""

PLACE = {"runner", "ray", "kubernetes"}
"""Keys of TrainingConfig that say where a training runs: what was measured before they were added still counts."""

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
    Variant(name="best-of-four-analysis", recipe=FULL, analyst=Analyst.BEST),
    Variant(name="unguided-analysis", recipe=FULL, analyst=Analyst.UNGUIDED),
    Variant(name="external-analysis", recipe=FULL, analyst=Analyst.EXTERNAL),
    Variant(name="external-unguided-analysis", recipe=FULL, analyst=Analyst.EXTERNAL_UNGUIDED),
    Variant(name="half-the-mistakes", recipe=FULL, every=2),
    Variant(name="quarter-of-the-mistakes", recipe=FULL, every=4),
    Variant(name="own-mistakes", recipe=FULL, answers=Answers.SHARED),
    Variant(name="others-mistakes", recipe=FULL, answers=Answers.OTHERS),
    Variant(name="cross-entropy-replay", recipe=FULL, training={"replay_loss": "cross-entropy"}),
    Variant(name="no-replay", recipe=FULL, replay=0.0),
    Variant(name="no-golden-pairs", recipe=FULL, golden=0.0),
    Variant(name="replay-out-of-context", recipe=FULL, in_context=False),
)
"""All vary the default recipe; own and others' mistakes are those of the prompts for which both answers are known."""
_BY_TEACHER: Mapping[str, Any] = {"replay_loss": "distillation", "learning_rate": 4e-4}
WITH_TEACHER = (
    Variant(name="context-distillation", recipe="context-distillation", training=_BY_TEACHER, golden=0.0),
    Variant(name="consistency", recipe="consistency", training=_BY_TEACHER, golden=0.0),
    Variant(
        name="mixed",
        recipe="consistency",
        by_kind={"secret-leak": "context-distillation"},
        training=_BY_TEACHER,
        golden=0.0,
    ),
    Variant(
        name="by-kind",
        recipe=FULL,
        by_kind={kind.value: recipe for kind, recipe in MEASURED_RECIPES.items()},
    ),
    Variant(name="auto", recipe=AUTO, training=_BY_TEACHER, golden=0.0),
    Variant(name="hindsight", recipe="hindsight", training=_BY_TEACHER, golden=0.0),
    Variant(name="lesson-ahead", recipe="lesson-ahead"),
)
"""Measured only if named (`--recipe`). Golden pairs are left out because they are trained as targets; `by-kind` is the
product's default."""
VARIANTS = {variant.name: variant for variant in (*RECIPES, *ABLATIONS, *WITH_TEACHER)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The extent of one measurement."""

    data: Path
    model: Path
    """Its folder's name stands for the model in all that is kept."""
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
    analyst: EndpointConfig | None = None
    """The other model that some variants ask for their analyses, if there is one."""


class Sheet:
    """The cells of a plan, how they are trained and served, and where their answers are kept."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.scenarios = [
            _named(SCENARIOS, name, "scenario")(PublicData(plan.data), plan.size) for name in plan.scenarios
        ]
        self.serving = ServingConfig(
            device="auto", port=0, cpu_threads=plan.threads, max_model_len=1024, alias="bench", max_loras=4
        )
        self.training = TrainingConfig(
            threads=plan.threads,
            epochs=100,
            max_tokens=plan.token_budget,
            batch_tokens=256,
            max_sequence_tokens=512,
            checkpoint_every_steps=1000,
            **plan.training,
        )
        path = plan.out / "cells.json"
        self._numbers: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        variants = [_named(VARIANTS, name, "recipe") for name in plan.variants]
        self.cells = [
            self._cell(scenario, variant, seed)
            for seed in plan.seeds
            for scenario in self.scenarios
            for variant in variants
        ]

    def _cell(self, scenario: Scenario, variant: Variant, seed: int) -> Cell:
        """Cells keep their number, and so their adapter, when a later plan has more of them."""
        same = (self.training.model_dump(exclude=PLACE), scenario_key(scenario), self.serving.guidance, _beside())
        taught = [_asked_before()] if {AUTO, *TAUGHT} & {variant.recipe, *variant.by_kind.values()} else []
        settings = digest([self.plan.model.name, _settings_of(variant), *same, *taught])
        key = f"{scenario.name}/{variant.name}/{seed}/{settings}"
        number = self._numbers.setdefault(key, len(self._numbers) + 1)
        return Cell(scenario=scenario, variant=variant, seed=seed, number=number, settings=settings)

    def keep_numbers(self) -> None:
        write_atomically(self.plan.out / "cells.json", json.dumps(self._numbers, indent=1).encode())

    def base_result(self, scenario: Scenario) -> Path:
        settings = digest([self.plan.model.name, scenario_key(scenario), self.serving.guidance, self.training.dtype])
        name = f"{scenario.name}-{BASE}-{settings}"
        return self.plan.out / ANSWERS / f"{name}.json"

    def result(self, cell: Cell) -> Path:
        return self.plan.out / ANSWERS / f"{cell.key.replace('/', '-')}-{cell.settings}.json"

    def waiting(self) -> list[Cell]:
        return [cell for cell in self.cells if not self.result(cell).exists()]

    def results(self) -> list[dict[str, Any]]:
        """The kept results of the scenarios whose untouched model was asked."""
        bases = {scenario.name: self.base_result(scenario) for scenario in self.scenarios}
        known = {name: path for name, path in bases.items() if path.exists()}
        kept = [*known.values(), *(self.result(cell) for cell in self.cells if cell.scenario.name in known)]
        scenarios = {scenario.name: scenario for scenario in self.scenarios}
        results = [json.loads(path.read_bytes()) for path in kept if path.exists()]
        return [judged(result, scenarios[result["scenario"]]) for result in results]


def judged(result: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """The result with the verdict on each answer, by the rules of today."""
    probes = {(probe.suite, probe.id): probe for probe in scenario.probes}
    answers = [
        one if one["bits"] is not None else {**one, **probes[one["suite"], one["id"]].judge(one["text"])}
        for one in result["answers"]
    ]
    return {**result, "answers": answers}


def _settings_of(variant: Variant) -> dict[str, Any]:
    """Without a field that is empty in nearly all, so that what was measured before it was added still counts."""
    settings = asdict(variant)
    if not variant.by_kind:
        del settings["by_kind"]
    return settings


def _asked_before() -> dict[str, Any]:
    """The settings of the questions before a training with a tested teacher."""
    return DatasetConfig().model_dump(include={"teacher_tokens", "own_answers"})


def _beside() -> list[object]:
    """The settings and pairs that every training has beside its lessons."""
    shares = DatasetConfig().model_dump(include={"replay_in_context", "max_replay_pairs"})
    sets = (source_of(None, name) for name in ("replay_prompts.jsonl", "golden_pairs.jsonl"))
    return [shares, REPLAY_TOKENS, *(lines.read_text(encoding="utf-8") for lines in sets)]


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise ConfigError(f"no {what} {name!r}; choose one of {', '.join(sorted(known))}")
    return known[name]
