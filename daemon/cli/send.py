"""Commands that add reports: submit, import."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import AsJson, ConfigPath, Overrides, opened, settings
from daemon.cli.output import print_json, progress, say, warn
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.intake.submit import Submission

SHOWN_PROBLEMS = 20


class Via(StrEnum):
    KAFKA = "kafka"
    HTTP = "http"


def submit(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="One report per line; see `erratad schema`.")
    ],
    *,
    via: Annotated[Via, typer.Option(help="Send to the intake topic, or to POST /v1/feedback.")] = Via.KAFKA,
    url: Annotated[
        str | None, typer.Option(help="http: the daemon's address; default: http.host and http.port.")
    ] = None,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Send the reports in a JSONL file.

    Every line is checked before the first is sent. Sending a file again is safe. Exits with 1 if a line is refused,
    with 3 if the broker or the daemon cannot be reached.
    """
    config = settings(config_path, overrides)
    submission = _send(file, via, url, config)
    if as_json:
        print_json(
            {
                "lines": submission.lines,
                "sent": submission.sent,
                "outcomes": dict(submission.outcomes),
                "problems": [
                    {"line": one.line, "reason": one.reason, "detail": one.detail} for one in submission.problems
                ],
                "stopped": submission.stopped,
            }
        )
    else:
        say(f"sent {submission.sent} of {submission.lines} reports{_counted(submission.outcomes)}")
    _warn_of([f"{file}:{one.line}: {one.reason}: {one.detail}" for one in submission.problems])
    if submission.stopped is not None:
        warn(submission.stopped)
    if not submission.complete:
        raise typer.Exit(1 if submission.stopped is None else 3)


def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A .csv or .jsonl file.")],
    *,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Import annotated data.

    Reads rows in the format of PKU-SafeRLHF (prompt, response, is_safe; or two responses, each marked safe or unsafe)
    and stores the unsafe responses as reports. Importing a file again is safe. Exits with 1 if a row is rejected.
    """
    from daemon.intake.importer import import_file as import_rows

    with opened(settings(config_path, overrides), create=True) as store, progress("importing rows") as advance:
        summary = import_rows(file, store.reports, on_rows=lambda rows: advance(rows, None))
    if as_json:
        print_json(
            {
                "rows": summary.rows,
                "safe": summary.safe,
                "outcomes": dict(summary.outcomes),
                "problems": [{"line": one.line, "field": one.field, "detail": one.detail} for one in summary.problems],
            }
        )
    else:
        counted = _counted({str(outcome): count for outcome, count in summary.outcomes.items()})
        say(f"read {summary.rows} rows, {summary.safe} of them safe{counted}")
    _warn_of([f"{file}:{one.line}: {one.field}: {one.detail}" for one in summary.problems])
    if summary.problems:
        raise typer.Exit(1)


def _send(file: Path, via: Via, url: str | None, config: Config) -> Submission:
    from daemon.intake.submit import send_http, send_kafka
    from daemon.web.access import tokens_of

    limit = config.intake.max_message_bytes
    with file.open("rb") as lines, progress("sending reports") as advance:
        if via is Via.HTTP:
            tokens = tokens_of(config.http)  # every role may report
            token = tokens[0].value if tokens else None
            return send_http(lines, _address(url, config), token=token, max_message_bytes=limit, on_sent=advance)
        if config.intake.kafka is None:
            raise ConfigError("intake.kafka is not configured; set it, or send with --via http")
        return send_kafka(lines, config.intake.kafka, max_message_bytes=limit, on_sent=advance)


def _address(url: str | None, config: Config) -> str:
    from daemon.operations.preflight import http_url_problem

    if url is None:
        return _own_address(config)
    problem = http_url_problem(url)
    if problem is not None:
        raise ConfigError(f"--url {problem}")
    return url


def _own_address(config: Config) -> str:
    """The address of a daemon with this configuration on this machine."""
    if config.http.port == 0:
        raise ConfigError("http.port is 0, so the port of the daemon is unknown; give its address with --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(config.http.host, config.http.host)  # noqa: S104
    return f"http://{host}:{config.http.port}"


def _counted(outcomes: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    return f": {counted}" if counted else ""


def _warn_of(problems: list[str]) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        warn(problem)
    if len(problems) > SHOWN_PROBLEMS:
        warn(f"and {len(problems) - SHOWN_PROBLEMS} more; --json lists all")
