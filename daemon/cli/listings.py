"""Read-only commands: status, reports, lessons, runs, adapters, audit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import AsJson, ConfigPath, Limit, Overrides, StateName, one_of, opened, settings
from daemon.cli.output import listing, print_json, say, table

if TYPE_CHECKING:
    from daemon.operations.status import StatusView

WATCH_INTERVAL_S = 2.0
_CLEAR = "\x1b[2J\x1b[H"


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat every 2 s until Ctrl-C.")] = False,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """Show the status of the daemon.

    Shows stages, reports, the live adapter, the active run and the schedule. Exits with 3 if no daemon seems to run.
    """
    from daemon.operations.status import status as read_status

    config = settings(config_path, overrides)
    with opened(config) as store:
        while True:
            view = read_status(store, config)
            if watch:
                typer.echo(_CLEAR, nl=False)
            if as_json:
                print_json(view)
            else:
                _show_status(view)
            if not watch:
                raise typer.Exit(0 if view.daemon_runs else 3)
            time.sleep(WATCH_INTERVAL_S)


def reports(
    report_id: Annotated[str | None, typer.Argument(help="Show this report from message to fix.")] = None,
    *,
    state: StateName = None,
    category: Annotated[str | None, typer.Option(help="Only reports of this category.")] = None,
    principal: Annotated[
        str | None, typer.Option(help="Only reports of this source, token, user:NAME or topic.")
    ] = None,
    reporter: Annotated[str | None, typer.Option(help="Only reports that name this reporter.")] = None,
    search: Annotated[str | None, typer.Option(help="Only reports with this text in their id or message.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List the reports, or show one.

    One report is shown from message to fix: conversation, analysis, correction, adapters trained on it, answers.
    """
    from daemon.cli.show import show_report
    from daemon.operations.views import ReportRow, report_view
    from daemon.records import ReportState

    config = settings(config_path, overrides)
    wanted = one_of(ReportState, state)
    with opened(config) as store:
        if report_id is not None:
            view = report_view(store, config, report_id)
            print_json(view) if as_json else show_report(view)
            return
        found = store.reports.find(
            state=wanted, category=category, principal=principal, reporter=reporter, search=search, limit=limit
        )
    rows = [ReportRow.of(report) for report in found]
    listing(
        rows,
        {
            "ID": "id",
            "STATE": "state",
            "CATEGORY": "category_text",
            "SEVERITY": "severity",
            "PRINCIPAL": "principal",
            "EVIDENCE": "evidence",
            "RECEIVED (UTC)": "received_at",
            "WHAT IS WRONG": "complaint",
        },
        empty="No reports.",
        as_json=as_json,
    )


def lessons(
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List the lessons that a training run may use."""
    with opened(settings(config_path, overrides)) as store:
        rows = [lesson for _, lesson in store.reports.trainable(limit=limit)]
    listing(
        rows,
        {
            "REPORT": "report_id",
            "ANALYST": "analyst",
            "TEMPLATE": "template",
            "CORRECTION": "correction_source",
            "MADE (UTC)": "created_at",
            "ANALYSIS": "analysis",
        },
        empty="No lessons yet.",
        as_json=as_json,
    )


def runs(
    run_id: Annotated[int | None, typer.Argument(help="Show this run with its verdict.")] = None,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List the training runs, or show one."""
    from daemon.cli.show import show_generation
    from daemon.operations.views import RunRow, run_view

    with opened(settings(config_path, overrides)) as store:
        if run_id is not None:
            view = run_view(store, run_id)
            print_json(view) if as_json else show_generation(view)
            return
        rows = [RunRow.of(run) for run in store.runs.find(limit=limit)]
    listing(
        rows,
        {
            "RUN": "id",
            "GENERATION": "generation",
            "STATE": "state",
            "TRIGGER": "trigger",
            "BY": "requested_by",
            "STARTED (UTC)": "created_at",
            "ENDED (UTC)": "finished_at",
            "REASON": "reason",
        },
        empty="No runs yet; `erratad train` starts one.",
        as_json=as_json,
    )


def adapters(
    generation: Annotated[int | None, typer.Argument(help="Show this generation with its lineage and verdict.")] = None,
    *,
    state: StateName = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List the generations, or show one.

    One generation is shown with its training reports, its evaluation, and the reason why it went live or did not.
    """
    from daemon.cli.show import show_generation
    from daemon.operations.views import generation_view
    from daemon.records import AdapterState

    config = settings(config_path, overrides)
    wanted = one_of(AdapterState, state)
    with opened(config) as store:
        if generation is not None:
            view = generation_view(store, generation)
            print_json(view) if as_json else show_generation(view)
            return
        rows = store.adapters.find(state=wanted, limit=limit)
    listing(
        rows,
        {
            "NAME": "name",
            "STATE": "state",
            "RUN": "run_id",
            "MADE (UTC)": "created_at",
            "WENT LIVE (UTC)": "promoted_at",
            "REASON": "reason",
        },
        empty="No adapters in that state.",
        as_json=as_json,
    )


def audit(
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
    config_path: ConfigPath = None,
    overrides: Overrides = None,
) -> None:
    """List the audit log: actor, action and reason, newest first."""
    with opened(settings(config_path, overrides)) as store:
        rows = store.audit.entries(limit=limit)
    listing(
        rows,
        {"AT (UTC)": "at", "WHO": "actor", "DID": "action", "WHAT": "subject", "WHY": "reason"},
        empty="No entries yet.",
        as_json=as_json,
    )


def _show_status(view: StatusView) -> None:
    from daemon.operations.progress import span

    for sentence in view.summary:
        say(sentence)
    if view.stages:
        say()
        table(
            ("STAGE", "LAST STEP", "WHAT IT DID"),
            [(stage.name, f"{span(stage.age_s)} ago", stage.sentence) for stage in view.stages],
            empty="",
        )
