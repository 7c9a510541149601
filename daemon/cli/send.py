"""Commands that add reports: submit, import."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.connection import Target, for_target, on_this_machine
from daemon.cli.options import AsJson, Yes, opened, operator
from daemon.cli.output import cell, print_json, progress, say, warn
from daemon.errors import ConfigError
from daemon.intake.products.names import Product

if TYPE_CHECKING:
    from daemon.cli.server import Server
    from daemon.config import Config
    from daemon.config.intake import SourceConfig
    from daemon.intake.formats.reports import ImportOptions
    from daemon.intake.importer import ImportSummary, Options, RowProblem, Survey
    from daemon.intake.submit import Submission

SHOWN_PROBLEMS = 20


class Via(StrEnum):
    KAFKA = "kafka"
    HTTP = "http"


@for_target
def submit(
    target: Target,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="One report per line; see `erratad schema`.")
    ],
    *,
    via: Annotated[
        Via | None, typer.Option(help="Send to the intake topic, or to POST /v1/feedback; default: kafka, or --server.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="http: the daemon's address; default: http.host and http.port.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Send as this source of intake.sources: by its topic or token.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send the reports in a JSONL file.

    Every line is checked before the first is sent. Sending a file again is safe. Exits with 1 if a line is refused,
    with 3 if the broker or the daemon cannot be reached.
    """
    if target.server is not None:
        submission = _send_to(target.server, file, only_local=(via is Via.KAFKA, url, source))
    else:
        submission = _send(file, via or Via.KAFKA, url, target.config(), source)
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


@on_this_machine
def import_file(
    config: Config,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL, JSON, CSV or Parquet; .gz, too.")],
    *,
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="COLUMN=NAME", help="The file's name of a column: prompt=question. Repeatable."),
    ] = None,
    category: Annotated[str | None, typer.Option(help="For rows that name no category.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", "-m", help="What is wrong, where rows do not say.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Such as cp1252; default: found out.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a table, such as ';' or tab; default: found out.")] = None,
    product: Annotated[
        Product | None, typer.Option("--from", help="The file is feedback that this product exported or sent.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="--from: the product's name of the model. Repeatable."),
    ] = None,
    scores: Annotated[
        list[str] | None, typer.Option("--score", metavar="NAME", help="--from: a score that is feedback. Repeatable.")
    ] = None,
    good_from: Annotated[
        float | None, typer.Option(help="--from: a score from here on is a thumb up, a lower one a thumb down.")
    ] = None,
    edits: Annotated[
        bool, typer.Option("--edits", help="--from: a changed answer is the user's better answer.")
    ] = False,
    trusted: Annotated[
        bool,
        typer.Option("--trusted", help="You vouch for the annotations: they train without evidence or confirmation."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what the file holds, and store nothing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Import annotated data as reports.

    Says what it understood, asks, and stores the answers that the file or your options call bad. Importing a file again
    is safe. Exits with 1 if a row cannot be read, and with 2 if there is no terminal to ask on and no --yes.
    """
    from daemon.intake.importer import store_reports, survey

    annotated = _import_options(
        mapped, category=category, reason=reason, encoding=encoding, delimiter=delimiter, config=config
    )
    options = _product_options(
        annotated, product, models=models, scores=scores, good_from=good_from, edits=edits, config=config
    )
    with progress("reading rows") as advance:
        found = survey(file, options, on_rows=lambda rows: advance(rows, None))
    if not as_json:
        _say_survey(found)
    summary = None
    if found.reports and not dry_run:
        _ask(found, yes=yes)
        with opened(config, create=True) as store, progress("importing rows") as advance:
            if trusted:
                reason = f"{_number(found.reports, 'report')}, without evidence or confirmation"
                store.audit.record(actor=operator(), action="trusted_import", subject=file.name[:200], reason=reason)
            summary = store_reports(
                found, store.reports, options, on_rows=lambda rows: advance(rows, found.rows), trusted=trusted
            )
    if as_json:
        print_json(_import_document(found, summary))
    elif summary is not None:
        say(f"imported{_counted({str(outcome): count for outcome, count in summary.outcomes.items()})}")
    problems = found.problems if summary is None else summary.problems
    _warn_of([f"{file}:{one.line}: {one.field}: {one.detail}" for one in problems])
    if not found.reports:
        warn(_nothing_to_import(found))
    if problems:
        raise typer.Exit(1)
    if _is_unjudged(found):
        raise typer.Exit(2)


def _import_options(
    mapped: list[str] | None,
    *,
    category: str | None,
    reason: str | None,
    encoding: str | None,
    delimiter: str | None,
    config: Config,
) -> ImportOptions:
    """The options of `import`. Raises BadParameter for impossible ones."""
    from daemon.intake.formats.cells import COLUMNS, RowError
    from daemon.intake.formats.reports import ImportOptions, slug

    columns = {}
    for pair in mapped or []:
        column, _, name = pair.partition("=")
        if column not in COLUMNS or not name:
            raise typer.BadParameter(f"--map {pair!r}: give COLUMN=NAME, where COLUMN is one of {', '.join(COLUMNS)}")
        columns[column] = name
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n"'):
        raise typer.BadParameter(f"--delimiter {delimiter!r}: give one character, or tab")
    try:
        category = None if category is None else slug(category)
    except RowError as exc:
        raise typer.BadParameter(f"--category: {exc.detail}") from exc
    return ImportOptions(
        columns=columns,
        category=category,
        reason=(reason or "").strip() or None,
        encoding=encoding,
        delimiter=delimiter,
        max_bytes=config.intake.max_message_bytes,
    )


def _product_options(
    options: ImportOptions,
    product: Product | None,
    *,
    models: list[str] | None,
    scores: list[str] | None,
    good_from: float | None,
    edits: bool,
    config: Config,
) -> Options:
    """The options of `import --from`. Raises BadParameter for options that do not go together."""
    from daemon.intake.products.fields import SCORES, Choices
    from daemon.intake.products.reading import ProductFile

    if product is None:
        if models or scores or good_from is not None or edits:
            raise typer.BadParameter("--model, --score, --good-from and --edits need --from")
        return options
    if options.columns or options.category or options.reason:
        raise typer.BadParameter("--from: --map, --category and --reason are for annotated data")
    choices = Choices(
        alias=config.serving.alias,
        models=frozenset(models or ()),
        scores=frozenset(scores or SCORES),
        good_from=good_from,
        edits=edits,
    )
    return ProductFile(
        product=product,
        choices=choices,
        exchanges=config.serving.exchanges.enabled,
        encoding=options.encoding,
        delimiter=options.delimiter,
        max_bytes=options.max_bytes,
    )


def _say_survey(found: Survey) -> None:
    say(f"{found.file.path}: {found.file.text}; columns: {cell(', '.join(map(str, found.columns)))}")
    say(f"{_number(found.rows, 'row')}: {_number(found.reports, 'report')}")
    for shape, rows in found.shapes.items():
        say(f"  {_number(rows, 'row')}: {shape}")
    for line, flagged in found.first:
        better = "" if flagged.correction is None else f"; better: {cell(flagged.correction)}"
        said = flagged.complaint or ("a thumb up" if flagged.rating == "up" else "no reason")
        say(f"  line {line}: {flagged.category or 'no category'}: {cell(said)}")
        asked = f"completion {flagged.completion_id}" if flagged.is_awaited else flagged.messages[-1].shown
        answered = "not known yet" if flagged.is_awaited else flagged.shown_response
        say(f"    {cell(asked)} -> {cell(answered)}{better}")
    for reason, left_out in found.left_out.items():
        say(f"  left out, {_number(left_out.rows, 'row')} (first: line {left_out.first_line}): {reason}")
    if found.problems:
        say(f"  cannot be read, {_number(len(found.problems), 'row')} (first: line {found.problems[0].line})")


def _ask(found: Survey, *, yes: bool) -> None:
    """Ask on a terminal whether to store. Exits with 1 after a no, with 2 if there is no terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        warn("nothing was stored: there is no terminal to ask on; give --yes to store, or --dry-run to look only")
        raise typer.Exit(2)
    if not typer.confirm(f"Store {_number(found.reports, 'report')}?", err=True):
        warn("nothing was stored")
        raise typer.Exit(1)


def _is_unjudged(found: Survey) -> bool:
    from daemon.intake.formats.reports import NOTHING_SAYS

    return not found.reports and NOTHING_SAYS in found.left_out


def _nothing_to_import(found: Survey) -> str:
    if _is_unjudged(found):
        return "nothing to import: no row says that its answer is bad; if all are, give --reason (and --category)"
    return "nothing to import: no row holds a bad answer"


def _import_document(found: Survey, summary: ImportSummary | None) -> dict[str, object]:
    problems: tuple[RowProblem, ...] = found.problems if summary is None else summary.problems
    return {
        "file": found.file.text,
        "columns": found.columns,
        "rows": found.rows,
        "shapes": dict(found.shapes),
        "reports": found.reports,
        "first": [{"line": line, "report": flagged.model_dump(mode="json")} for line, flagged in found.first],
        "left_out": [
            {"reason": reason, "rows": one.rows, "first_line": one.first_line} for reason, one in found.left_out.items()
        ],
        "outcomes": {} if summary is None else dict(summary.outcomes),
        "problems": [{"line": one.line, "field": one.field, "detail": one.detail} for one in problems],
    }


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _source(name: str, via: Via, config: Config) -> SourceConfig:
    """The source of this name. Raises ConfigError if it cannot send this way."""
    found = next((one for one in config.intake.sources if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in config.intake.sources) or "none is configured"
        raise ConfigError(f"--source {name}: intake.sources has no such name ({known})")
    needed = "topic" if via is Via.KAFKA else "token"
    if getattr(found, needed) is None:
        other = " --via http" if via is Via.KAFKA and found.token else " without --via http" if found.topic else ""
        raise ConfigError(f"--source {name}: it has no {needed}" + (f"; send{other}" if other else ""))
    return found


def _send_to(server: Server, file: Path, *, only_local: tuple[object, ...]) -> Submission:
    """Send over the API of a server. Raises ConfigError for an option that belongs to a configuration."""
    from daemon.intake.submit import send_http

    if any(only_local):
        raise ConfigError(f"--via kafka, --url and --source need --config; {server.url} takes reports under its token")
    server.warn_if_readable()
    with file.open("rb") as lines, progress("sending reports") as advance:
        return send_http(lines, server.url, token=server.token, authority=server.ca_file, on_sent=advance)


def _send(file: Path, via: Via, url: str | None, config: Config, name: str | None) -> Submission:
    from daemon.intake.submit import send_http, send_kafka
    from daemon.web.tokens import tokens_of

    source = None if name is None else _source(name, via, config)
    limit = config.intake.max_message_bytes
    with file.open("rb") as lines, progress("sending reports") as advance:
        if via is Via.HTTP:
            tokens = tokens_of(config.http)  # every role may report
            if source is not None:
                tokens = [one for one in tokens if one.name == source.token]
            token = tokens[0].value if tokens else None
            return send_http(lines, _address(url, config), token=token, max_message_bytes=limit, on_sent=advance)
        if config.intake.kafka is None:
            raise ConfigError("intake.kafka is not configured; set it, or send with --via http")
        kafka = config.intake.kafka
        if source is not None and source.topic is not None:
            kafka = kafka.model_copy(update={"topic": source.topic})
        return send_kafka(lines, kafka, max_message_bytes=limit, on_sent=advance)


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
