"""`erratad review`: the review queue and its decisions, as in the console."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli import completion
from daemon.cli.backend import Backend, Document
from daemon.cli.connection import on_backend
from daemon.cli.options import AsJson, Limit, Reason, for_each
from daemon.cli.output import print_json, say, table
from daemon.errors import ConfigError, IllegalTransitionError
from daemon.text.visible import hidden_again, visible

if TYPE_CHECKING:
    from daemon.operations.reviews import ReviewQueueView

REVIEWED = "reviewed on the command line"
MARK = "===== corrected answer below; leave it empty if no good answer is known ====="
ReportId = Annotated[str, typer.Argument(metavar="ID", help="The report.", autocompletion=completion.reports)]
ReportIds = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...", help="Quarantined reports, or reports with an analysis.", autocompletion=completion.reports
    ),
]

review = typer.Typer(
    name="review",
    help="Review quarantined reports and analyses before a run trains on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@review.command("list")
@on_backend
def list_(
    backend: Backend,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the review queue: quarantined reports, analyses with something set aside, other analyses."""
    from daemon.operations.reviews import ReviewQueueView

    queue = backend.review_queue(limit=limit)
    print_json(queue) if as_json else _show_queue(ReviewQueueView.model_validate(queue))


@review.command()
@on_backend
def show(
    backend: Backend,
    report_id: ReportId,
    *,
    as_json: AsJson = False,
) -> None:
    """Show one report: conversation, flagged answer, reason, analysis and corrected answer."""
    from daemon.cli.show import show_report
    from daemon.operations.views import ReportView

    report = backend.report(report_id)
    print_json(report) if as_json else show_report(ReportView.model_validate(report))


@review.command()
@on_backend
def accept(
    backend: Backend,
    report_ids: ReportIds,
    *,
    reason: Reason = REVIEWED,
) -> None:
    """Release quarantined reports into the queue, or approve analyses."""
    for_each(report_ids, lambda one: backend.act_on(one, "accept", reason=reason), "accepted")


@review.command()
@on_backend
def correct(
    backend: Backend,
    report_id: ReportId,
    *,
    analysis: Annotated[str | None, typer.Option("--analysis", help="Why the flagged answer is wrong.")] = None,
    correction: Annotated[str | None, typer.Option("--correction", help="A good answer; '' for none.")] = None,
    edit: Annotated[bool, typer.Option("--edit", "-e", help="Edit both in $EDITOR.")] = False,
    reason: Reason = REVIEWED,
) -> None:
    """Replace an analysis and its corrected answer.

    An omitted part stays unchanged. The corrected answer must pass the report's own checks and the content checks.
    """
    if analysis is None and correction is None and not edit:
        raise ConfigError("nothing to correct; give --analysis, --correction or --edit")
    old = _lesson(backend, report_id)
    words = old["analysis"] if analysis is None else analysis
    better = (old["correction"] or "") if correction is None else correction
    if edit:
        words, better = _edited(words, better)
    backend.correct(report_id, analysis=words, correction=better, reason=reason)
    say(f"corrected {report_id}")


@review.command()
@on_backend
def reject(
    backend: Backend,
    report_ids: ReportIds,
    *,
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why.")],
) -> None:
    """Bury quarantined reports, or reports with a wrong analysis. `erratad requeue` revives them."""
    for_each(report_ids, lambda one: backend.act_on(one, "bury", reason=reason), "rejected")


def _lesson(backend: Backend, report_id: str) -> Document:
    found = backend.report(report_id)
    if found["lesson"] is None:
        raise IllegalTransitionError(f"report {report_id} is {found['report']['state']} and has no analysis to correct")
    lesson: Document = found["lesson"]
    return lesson


def _edited(analysis: str, correction: str) -> tuple[str, str]:
    """Edit both texts in the editor. Raises ConfigError if it fails, or if nothing was changed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    given = f"{visible(analysis)}\n\n{MARK}\n{visible(correction)}\n"
    with tempfile.TemporaryDirectory() as folder:  # readable by this user only: a report is private
        file = Path(folder) / "review.txt"
        file.write_text(given, encoding="utf-8")
        try:
            subprocess.run([*shlex.split(editor), str(file)], check=True)
        except (OSError, ValueError, subprocess.CalledProcessError) as exc:
            raise ConfigError(f"the editor {editor!r} (variable EDITOR) failed: {exc}") from exc
        text = file.read_text(encoding="utf-8")
    if text == given:
        raise ConfigError("nothing was changed in the editor")
    words, _, better = text.partition(MARK)
    return hidden_again(words), hidden_again(better)


def _show_queue(queue: ReviewQueueView) -> None:
    groups = (("quarantined", queue.quarantined), ("set aside", queue.set_aside), ("analysis", queue.analyses))
    waiting = [(kind, item) for kind, items in groups for item in items]
    table(
        ("ID", "WAITS", "CATEGORY", "REPORTER", "RECEIVED (UTC)", "WHAT IS WRONG", "ANALYSIS"),
        [
            (
                *(
                    item.report.id,
                    kind,
                    item.report.category_text,
                    f"{item.report.reporter} of {item.report.principal}",
                    item.report.received_at,
                ),
                *(item.report.complaint, None if item.lesson is None else item.lesson.analysis),
            )
            for kind, item in waiting
        ],
        empty="Nothing to review.",
    )
    more = queue.quarantined_waiting + queue.set_aside_waiting + queue.analyses_waiting - len(waiting)
    if more:
        say(f"{more} more in the queue; --limit shows more of each kind")
