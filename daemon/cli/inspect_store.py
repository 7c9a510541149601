"""Commands that look: status, reports, lessons, runs, adapters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.common import AsJson, ConfigPath, Limit, Overrides, StateName, one_of, opened, settings
from daemon.cli.output import print_json, say, table

if TYPE_CHECKING:
    from daemon.status import StatusView

WATCH_INTERVAL_S = 2.0
_CLEAR = "\x1b[2J\x1b[H"


def status(
    config: ConfigPath = None,
    overrides: Overrides = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every 2 s until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say where the daemon stands.

    Stages, reports, the live adapter, the active run, the schedule. Exits with 3 when no daemon seems to run.
    """
    effective = settings(config, overrides)
    from daemon.status import status as look

    with opened(effective) as store:
        while True:
            view = look(store, effective)
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
    report_id: Annotated[str | None, typer.Argument(help="Show this one from message to fix.")] = None,
    config: ConfigPath = None,
    overrides: Overrides = None,
    *,
    state: StateName = None,
    category: Annotated[str | None, typer.Option(help="Only those of this category.")] = None,
    search: Annotated[str | None, typer.Option(help="Only those whose id contains this.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the reports, or show one.

    One is shown from message to fix: conversation, analysis, correction, adapters trained on it, answers.
    """
    effective = settings(config, overrides)
    from daemon.cli.details import show_report
    from daemon.records import ReportState
    from daemon.views import ReportRow, report_view

    wanted = one_of(ReportState, state)
    with opened(effective) as store:
        if report_id is not None:
            view = report_view(store, report_id)
            print_json(view) if as_json else show_report(view)
            return
        found = store.reports.find(state=wanted, category=category, search=search, limit=limit)
    rows = [ReportRow.of(report) for report in found]
    if as_json:
        print_json(rows)
        return
    table(
        ("ID", "STATE", "CATEGORY", "SEVERITY", "RECEIVED (UTC)", "WHAT IS WRONG"),
        [(row.id, row.state, row.category, row.severity, row.received_at, row.reason) for row in rows],
        empty="No reports.",
    )


def lessons(
    config: ConfigPath = None, overrides: Overrides = None, *, limit: Limit = 50, as_json: AsJson = False
) -> None:
    """List what a training run may use."""
    effective = settings(config, overrides)
    from daemon.views import LessonView

    with opened(effective) as store:
        rows = [LessonView.of(lesson) for _, lesson in store.reports.trainable(limit=limit)]
    if as_json:
        print_json(rows)
        return
    table(
        ("REPORT", "ANALYST", "TEMPLATE", "CORRECTION", "MADE (UTC)", "ANALYSIS"),
        [
            (row.report_id, row.analyst, row.template, row.correction_source, row.created_at, row.analysis)
            for row in rows
        ],
        empty="No lessons yet.",
    )


def runs(
    run_id: Annotated[int | None, typer.Argument(help="Show this one with its verdict.")] = None,
    config: ConfigPath = None,
    overrides: Overrides = None,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the training runs, or show one."""
    effective = settings(config, overrides)
    from daemon.cli.details import show_generation
    from daemon.views import RunRow, run_view

    with opened(effective) as store:
        if run_id is not None:
            view = run_view(store, run_id)
            print_json(view) if as_json else show_generation(view)
            return
        rows = [RunRow.of(run) for run in store.runs.find(limit=limit)]
    if as_json:
        print_json(rows)
        return
    table(
        ("RUN", "GENERATION", "STATE", "TRIGGER", "BY", "STARTED (UTC)", "ENDED (UTC)", "REASON"),
        [
            (
                run.id,
                run.generation,
                run.state,
                run.trigger,
                run.requested_by,
                run.created_at,
                run.finished_at,
                run.reason,
            )
            for run in rows
        ],
        empty="No runs yet; `erratad train` starts one.",
    )


def adapters(
    generation: Annotated[int | None, typer.Argument(help="Show this one with its lineage and verdict.")] = None,
    config: ConfigPath = None,
    overrides: Overrides = None,
    *,
    state: StateName = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the generations, or show one.

    One is shown with its lineage: what it was trained on, what was measured, why it went live or did not.
    """
    effective = settings(config, overrides)
    from daemon.cli.details import show_generation
    from daemon.records import AdapterState
    from daemon.views import AdapterRow, generation_view

    wanted = one_of(AdapterState, state)
    with opened(effective) as store:
        if generation is not None:
            view = generation_view(store, generation)
            print_json(view) if as_json else show_generation(view)
            return
        rows = [AdapterRow.of(adapter) for adapter in store.adapters.find(state=wanted, limit=limit)]
    if as_json:
        print_json(rows)
        return
    table(
        ("NAME", "STATE", "RUN", "MADE (UTC)", "WENT LIVE (UTC)", "REASON"),
        [(row.name, row.state, row.run_id, row.created_at, row.promoted_at, row.reason) for row in rows],
        empty="No adapters in that state.",
    )


def _show_status(view: StatusView) -> None:
    from daemon.status import span

    for sentence in view.summary:
        say(sentence)
    if view.stages:
        say()
        table(
            ("STAGE", "LAST STEP", "WHAT IT DID"),
            [(stage.name, f"{span(stage.age_s)} ago", stage.sentence) for stage in view.stages],
            empty="",
        )
