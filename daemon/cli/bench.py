"""`erratad bench`: measurements of the method, on data and models of one's own choice."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.options import AsJson
from daemon.cli.output import print_json, say, warn
from daemon.errors import ConfigError

DEFAULT_TRAINING = {"learning_rate": 5e-4, "dtype": "float32"}
"""What suits the demo's model; the product's default is for larger ones. In bfloat16 answers depend on the processor,
and a table may grow on more than one machine."""

bench = typer.Typer(
    name="bench",
    help="Measure whether learning from mistakes works.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@bench.callback()
def _group() -> None:
    """Measure whether learning from mistakes works."""


@bench.command()
def quality(
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder with the public data sets; what is missing is named.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="Base model in Hugging Face format; default: the demo's.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Everything trained and asked is kept here; run again to go on.")
    ] = Path("var/bench-quality"),
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="attack or unaligned; default: both.")
    ] = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="May be repeated; default: all.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Trainings per recipe.")] = 3,
    token_budget: Annotated[
        int, typer.Option("--token-budget", min=1000, help="Tokens of each training, prompt and answer.")
    ] = 48_000,
    training: Annotated[
        list[str] | None,
        typer.Option("--training", help="KEY=VALUE of the section `training` of every training; may be repeated."),
    ] = None,
    ablations: Annotated[
        bool,
        typer.Option(
            "--ablations",
            help="Measure the default recipe's ablations, too; another model's analyses with --analyst-url only.",
        ),
    ] = False,
    analyst_url: Annotated[
        str | None,
        typer.Option("--analyst-url", help="Endpoint (OpenAI API) of the other model that is to analyse."),
    ] = None,
    analyst_model: Annotated[str, typer.Option("--analyst-model", help="That model's name there.")] = "analyst",
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder for one SVG per scenario.")] = None,
    size: Annotated[float, typer.Option("--size", min=0.05, help="Scale of the numbers of mistakes and probes.")] = 0.6,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of trainer and server, each.")] = 1,
    trainers: Annotated[int, typer.Option("--trainers", min=1, help="Trainings at the same time.")] = 1,
    kept: Annotated[bool, typer.Option("--kept", help="Measure nothing; show what was measured so far.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the recipes on the same mistakes at the same token budget.

    Trains with each recipe on the model's own mistakes, asks held-out questions with and without guidance, and prints
    a table with 95 % intervals. An interrupted measurement goes on where it was.
    """
    from daemon.bench import quality as runner
    from daemon.bench import report
    from daemon.bench.scenarios import SCENARIOS
    from daemon.config import LogConfig
    from daemon.config.reflection import EndpointConfig
    from daemon.demo.process import model_dir
    from daemon.runtime import log

    analyst = None if analyst_url is None else EndpointConfig(url=analyst_url, model=analyst_model)
    named = [
        *runner.RECIPES,
        *(one for one in runner.ABLATIONS if ablations and (analyst or kept or not one.analyst.is_external)),
    ]
    plan = runner.Plan(
        data=data,
        model=model or model_dir(),
        out=out,
        scenarios=tuple(scenario or SCENARIOS),
        variants=tuple(recipe or [one.name for one in named]),
        seeds=tuple(range(seeds)),
        token_budget=token_budget,
        training=_training(training or ()),
        size=size,
        threads=threads,
        trainers=trainers,
        analyst=analyst,
    )
    log.configure(LogConfig(level="warning", format="text"))  # to stderr: stdout is the result's
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server is stopped, too
    results = runner.measured(plan) if kept else runner.measure(plan, warn)
    found = report.scores(results)
    page = report.page(found, results)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name in plan.scenarios:
            report.plot(found, name, plots / f"quality-{name}.svg")
    if as_json:
        print_json({"scores": report.as_json(found), "markdown": page})
    else:
        say(page)


def _training(settings: Sequence[str]) -> dict[str, Any]:
    """The keys of the section `training` that differ from the product's defaults."""
    import yaml
    from pydantic import ValidationError

    from daemon.config.training import TrainingConfig

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
