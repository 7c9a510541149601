"""Commands of the archive: move closed reports into files, list the files, bring reports back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli import completion
from daemon.cli.connection import on_this_machine
from daemon.cli.options import AsJson, Reason, opened, operator
from daemon.cli.output import listing, print_json, say
from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.config import Config
    from daemon.operations.archiving import Archiver
    from daemon.store import Store

archive = typer.Typer(
    name="archive",
    help="Move closed reports of past months into Parquet files (storage.archive), and bring them back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@archive.command("run")
@on_this_machine
def run(
    config: Config,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many reports would move.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move everything that is closed and old enough now.

    The daemon does so once a day. Both may run at once.
    """
    with _archiver(config) as (_, archiver):
        started, place, reports, files = time.process_time(), None, 0, 0
        while True:
            step = archiver.look(place) if dry_run else archiver.move(place)
            reports, files, place = reports + step.reports, files + bool(step.reports), step.place
            if place is None:
                break
        cpu_s = round(time.process_time() - started, 2)
    if as_json:
        print_json({"dry_run": dry_run, "reports": reports, "files": files, "cpu_s": cpu_s})
    else:
        say(f"{'would archive' if dry_run else 'archived'} {reports} reports in {files} files")


@archive.command("list")
@on_this_machine
def list_files(config: Config, *, as_json: AsJson = False) -> None:
    """The files of the archive, oldest month first."""
    with _archiver(config) as (store, archiver):
        files = store.archive.files()
        rows = [
            {
                "file": one.name,
                "month": one.month,
                "reports": one.reports,
                "bytes": one.size_bytes,
                "written": one.created_at.isoformat(timespec="seconds"),
                "sha256": one.sha256,
                "missing": not archiver.path(one.name).exists(),
            }
            for one in files
        ]
    columns = {name: name.upper() for name in ("file", "reports", "bytes", "written", "missing")}
    listing(rows, columns, empty="no report is archived", as_json=as_json)


@archive.command("find")
@on_this_machine
def find(
    config: Config, text: Annotated[str, typer.Argument(help="The text, in any case.")], *, as_json: AsJson = False
) -> None:
    """The archived reports with a text, for example before an erasure. It reads all files."""
    with _archiver(config) as (_, archiver):
        rows = [{"id": report_id, "file": file.name} for report_id, file in archiver.search(text)]
    listing(rows, {"id": "ID", "file": "FILE"}, empty="no archived report has this text", as_json=as_json)


@archive.command("restore")
@on_this_machine
def restore(
    config: Config,
    file: Annotated[
        str | None,
        typer.Argument(help="A file as `erratad archive list` names it.", autocompletion=completion.archived),
    ] = None,
    *,
    month: Annotated[
        str | None,
        typer.Option("--month", metavar="YYYY-MM", help="All files of a month.", autocompletion=completion.months),
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="ID", help="One report, with the others of the same answer.")
    ] = None,
    reason: Reason = "no reason given",
    as_json: AsJson = False,
) -> None:
    """Put archived reports back into the database, as they were.

    A report whose fix is no longer live is opened again. It stays in the database for storage.archive.after_days.
    """
    if sum(one is not None for one in (file, month, report)) != 1:
        raise ConfigError("name one of: a file, --month or --report")
    with _archiver(config) as (_, archiver):
        given: dict[str, Any] = {"actor": operator(), "reason": reason}
        if report is not None:
            ids = archiver.restore_report(report, **given)
        else:
            files = archiver.months(month) if month is not None else archiver.named(file or "")
            ids = archiver.restore(files, **given)
    if as_json:
        print_json({"restored": ids})
    else:
        say(f"restored {len(ids)} reports")


@contextmanager
def _archiver(config: Config) -> Iterator[tuple[Store, Archiver]]:
    from daemon.operations.archiving import Archiver

    with opened(config) as store:
        yield store, Archiver(store, config)
