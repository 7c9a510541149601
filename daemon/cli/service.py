"""Commands about the daemon itself: run, check-config, vllm, schema, demo, version."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon import __version__
from daemon.cli.connection import on_this_machine
from daemon.cli.options import AsJson
from daemon.cli.output import print_json, say, warn

if TYPE_CHECKING:
    from daemon.config import Config


@on_this_machine
def run(config: Config) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    from daemon.service import serve

    raise typer.Exit(serve(config))


@on_this_machine
def check_config(
    config: Config,
    *,
    as_json: AsJson = False,
) -> None:
    """Check the configuration and the model.

    Prints the values with masked secrets, and every problem that would prevent the daemon from working. A child process
    loads the model without its weights and renders conversations, which takes about ten seconds. Exits with 2 if there
    is a problem.
    """
    import yaml

    from daemon.config.masking import masked
    from daemon.operations.preflight import check

    found = check(config)
    if as_json:
        print_json({"config": masked(config), "problems": found.problems, "notes": found.notes})
    else:
        say(yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True, width=120).rstrip())
        for line in (*found.notes, *found.problems):
            warn(line)
    if found.problems:
        raise typer.Exit(2)
    if not as_json:
        warn("the configuration is valid")


@on_this_machine
def vllm(
    config: Config,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    show: Annotated[bool, typer.Option("--print", help="Print the command instead of running it.")] = False,
) -> None:
    """Start a vLLM server for a daemon in attached mode.

    Alias, guidance and plugin come from the daemon's configuration, so that both agree. The server answers under the
    alias after the daemon has given it the live generation.
    """
    from daemon.serving.command import attached_command

    command = attached_command(config, host=host, port=port)
    if show:
        typer.echo(shlex.join(command.argv))
        return
    os.execvpe(command.argv[0], command.argv, {**os.environ, **command.environment})  # noqa: S606 - no shell is wanted


def schema() -> None:
    """Print the JSON Schema of a report."""
    from connectors.messages import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def demo(
    *,
    scenario: Annotated[
        Path | None, typer.Option(help="JSONL file of questions with checks; default: the set shipped with erratad.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="The output folder; it is emptied first.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running at the end, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Run the whole loop once, with real components.

    Starts an embedded broker, a vLLM server and the daemon on this machine, flags bad answers, and waits until a
    better adapter is live.
    """
    from daemon.demo import run_demo

    raise typer.Exit(run_demo(as_json=as_json, scenario=scenario, data_dir=data_dir, keep=keep))


def files() -> None:
    """Print the folder of the files that come with erratad.

    configs/default.yaml explains every key; deploy/ holds Prometheus' rules, Grafana's dashboards, Alertmanager's
    routes and units of systemd. Copy them from there.
    """
    from daemon.shipped import SHIPPED

    typer.echo(SHIPPED)


def version() -> None:
    """Print the version."""
    typer.echo(f"erratad {__version__}")
