"""The options of the quality benchmark, and the plan that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from daemon.config.reflection import EndpointConfig
from daemon.config.training import TrainingConfig
from daemon.demo.process import model_dir
from daemon.errors import ConfigError
from tests.benchmarks.quality.cells import BASE
from tests.benchmarks.quality.plan import ABLATIONS, RECIPES, Plan
from tests.benchmarks.quality.scenarios import SCENARIOS

Number = TypeVar("Number", int, float)

DEFAULT_TRAINING = {"learning_rate": 5e-4, "dtype": "float32"}
"""What suits the demo's model; the product's default is for larger ones. In bfloat16 answers depend on the processor,
and a table may grow on more than one machine."""


def parser(about: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m tests.benchmarks.quality", description=about, allow_abbrev=False)
    add = made.add_argument
    add("--data", type=Path, required=True, help="folder with the public data sets; what is missing is named")
    add("--model", type=Path, help="base model in Hugging Face format; default: the demo's")
    add("--out", type=Path, default=Path("var/bench-quality"), help="keeps everything trained and asked, to go on from")
    add("--scenario", action="append", help="attack or unaligned; default: both")
    add("--recipe", action="append", help="may be repeated; default: all; base: the untouched model alone")
    add("--seeds", type=_at_least(1), default=3, help="trainings per recipe")
    add("--token-budget", type=_at_least(1000), default=16_000, help="tokens of each training, prompt and answer")
    add(
        "--training",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the section `training` of every training; may be repeated",
    )
    add(
        "--ablations",
        action="store_true",
        help="measure the default recipe's ablations, too; another model's analyses with --analyst-url only",
    )
    add("--analyst-url", help="endpoint (OpenAI API) of the other model that is to analyse")
    add("--analyst-model", default="analyst", help="that model's name there")
    add("--plots", type=Path, help="folder for one SVG per scenario")
    add("--size", type=_at_least(0.05), default=1.0, help="scale of the numbers of mistakes and probes")
    add("--threads", type=_at_least(1), default=1, help="CPU threads of trainer and server, each")
    add("--trainers", type=_at_least(1), default=1, help="trainings at the same time")
    add("--kept", action="store_true", help="measure nothing; show what was measured so far")
    add("--json", action="store_true", help="print one JSON document instead of the tables")
    return made


def plan_of(given: argparse.Namespace) -> Plan:
    """Raises ConfigError for a wrong `--training`, and without `--model` where the demo's model is missing."""
    analyst = None if given.analyst_url is None else EndpointConfig(url=given.analyst_url, model=given.analyst_model)
    ablations = [one for one in ABLATIONS if analyst or given.kept or not one.analyst.is_external]
    variants = [*RECIPES, *(ablations if given.ablations else ())]
    return Plan(
        data=given.data,
        model=given.model or model_dir(),
        out=given.out,
        scenarios=tuple(given.scenario or SCENARIOS),
        variants=tuple(name for name in given.recipe or (one.name for one in variants) if name != BASE),
        seeds=tuple(range(given.seeds)),
        token_budget=given.token_budget,
        training=_training(given.training),
        size=given.size,
        threads=given.threads,
        trainers=given.trainers,
        analyst=analyst,
    )


def _at_least(minimum: Number) -> Callable[[str], Number]:
    def number(text: str) -> Number:
        value = type(minimum)(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {minimum}")
        return value

    return number


def _training(settings: Sequence[str]) -> dict[str, Any]:
    """The keys of the section `training` that differ from the product's defaults."""
    values = DEFAULT_TRAINING | {
        key: yaml.safe_load(value) for key, _, value in (setting.partition("=") for setting in settings)
    }
    try:
        TrainingConfig.model_validate(values)
    except ValidationError as exc:
        error = exc.errors()[0]
        key = ".".join(map(str, error["loc"]))
        raise ConfigError(f"--training {key}: {error['msg']}; write KEY=VALUE, e.g. --training rank=8") from exc
    return values
