"""`erratad review`: what waits for a person, and what that person decides; the console's queue without a browser."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import AsJson, ConfigPath, Limit, Overrides, Reason, for_each, opened, operator, settings
from daemon.cli.output import print_json, say, table
from daemon.errors import ConfigError, IllegalTransitionError

if TYPE_CHECKING:
    from daemon.operations.views import ReviewQueueView
    from daemon.records import Lesson
    from daemon.store import Store

REVIEWED = "reviewed on the command line"
MARK = "===== corrected answer below; nothing: none is known to be good ====="
ReportId = Annotated[str, typer.Argument(metavar="ID", help="The report.")]
ReportIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Quarantined reports, or ones with an analysis.")]

review = typer.Typer(
    name="review",
    help="Decide about quarantined reports and about analyses, before a run learns from them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@review.command("list")
def list_(
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List what waits: quarantined reports, and analyses that nobody has looked at; oldest first."""
    from daemon.operations.views import review_queue

    with opened(settings(config_path, overrides)) as store:
        queue = review_queue(store, limit=limit)
    print_json(queue) if as_json else _show_queue(queue)


@review.command()
def show(
    report_id: ReportId,
    *,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Show one: conversation, flagged answer, what is wrong with it, analysis, corrected answer."""
    from daemon.cli.show import show_report
    from daemon.operations.views import report_view

    with opened(settings(config_path, overrides)) as store:
        view = report_view(store, report_id)
    print_json(view) if as_json else show_report(view)


@review.command()
def accept(
    report_ids: ReportIds,
    *,
    reason: Reason = REVIEWED,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Release quarantined reports into the queue, or approve analyses."""
    with opened(settings(config_path, overrides)) as store:
        for_each(report_ids, lambda one: store.reviews.accept(one, actor=operator(), reason=reason), "accepted")


@review.command()
def correct(
    report_id: ReportId,
    *,
    analysis: Annotated[str | None, typer.Option("--analysis", help="Why the flagged answer is wrong.")] = None,
    correction: Annotated[str | None, typer.Option("--correction", help="A good answer; '' for none.")] = None,
    edit: Annotated[bool, typer.Option("--edit", "-e", help="Change both in the editor that EDITOR names.")] = False,
    reason: Reason = REVIEWED,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Put better words in place of an analysis and its corrected answer.

    What is not given stays as it is. The corrected answer must meet the report's own rules.
    """
    from daemon.operations import commands

    config = settings(config_path, overrides)
    if analysis is None and correction is None and not edit:
        raise ConfigError("nothing to correct; give --analysis, --correction or --edit")
    with opened(config) as store:
        old = _lesson(store, report_id)
        words = old.analysis if analysis is None else analysis
        better = (old.correction or "") if correction is None else correction
        if edit:
            words, better = _edited(words, better)
        commands.correct_analysis(store, report_id, analysis=words, correction=better, actor=operator(), reason=reason)
    say(f"corrected {report_id}")


@review.command()
def reject(
    report_ids: ReportIds,
    *,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why.")],
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Bury quarantined reports, or ones whose analysis would teach nonsense; `erratad requeue` revives them."""
    with opened(settings(config_path, overrides)) as store:
        for_each(report_ids, lambda one: store.reviews.reject(one, actor=operator(), reason=reason), "rejected")


def _lesson(store: Store, report_id: str) -> Lesson:
    lesson = store.reports.lesson(report_id)
    if lesson is None:
        state = store.reports.get(report_id).state
        raise IllegalTransitionError(f"report {report_id} is {state} and has no analysis to correct")
    return lesson


def _edited(analysis: str, correction: str) -> tuple[str, str]:
    """Raises ConfigError when there is no editor, or nothing was changed in it."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    given = f"{analysis}\n\n{MARK}\n{correction}\n"
    with tempfile.TemporaryDirectory() as folder:  # for this user only: the text is a report's
        file = Path(folder) / "review.txt"
        file.write_text(given, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as exc:
            raise ConfigError(f"the editor {editor!r} (variable EDITOR) did not work: {exc}") from exc
        text = file.read_text(encoding="utf-8")
    if text == given:
        raise ConfigError("nothing was changed in the editor")
    words, _, better = text.partition(MARK)
    return words, better


def _show_queue(queue: ReviewQueueView) -> None:
    waiting = [("quarantined", item) for item in queue.quarantined] + [("analysis", item) for item in queue.analyses]
    table(
        ("ID", "WAITS", "CATEGORY", "REPORTER", "RECEIVED (UTC)", "WHAT IS WRONG", "ANALYSIS"),
        [
            (
                *(item.report.id, kind, item.report.category, item.report.reporter, item.report.received_at),
                *(item.report.reason, None if item.lesson is None else item.lesson.analysis),
            )
            for kind, item in waiting
        ],
        empty="Nothing waits for a review.",
    )
    more = queue.quarantined_waiting + queue.analyses_waiting - len(waiting)
    if more:
        say(f"{more} more wait; --limit shows more of each kind")
