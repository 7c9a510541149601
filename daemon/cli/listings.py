"""Read-only commands: status, reports, lessons, runs, adapters, audit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from daemon.cli import completion
from daemon.cli.backend import Backend, Document
from daemon.cli.connection import Target, for_target, on_backend
from daemon.cli.options import MAX_NUMBER, AsJson, Limit, one_of
from daemon.cli.output import listing, print_json, say, table
from daemon.report_filter import ReportFilter, ShownEvidence, Sort

WATCH_INTERVAL_S = 2.0
_CLEAR = "\x1b[2J\x1b[H"


def _state(completed: Callable[[str], list[str]]) -> Any:
    return typer.Option("--state", metavar="STATE", help="Only entries in this state.", autocompletion=completed)


def _day(said: str) -> Any:
    return typer.Option(metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help=said)


@for_target
def status(
    target: Target,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Repeat every 2 s until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the status of the daemon.

    Shows stages, reports, the live adapter, the active run and the schedule. Exits with 3 if no daemon seems to run.
    """
    with target.status() as look:
        while True:
            view = look()
            if watch:
                typer.echo(_CLEAR, nl=False)
            if as_json:
                print_json(view)
            else:
                _show_status(view)
            if not watch:
                raise typer.Exit(0 if view["daemon_runs"] else 3)
            time.sleep(WATCH_INTERVAL_S)


@on_backend
def reports(
    backend: Backend,
    report_id: Annotated[
        str | None, typer.Argument(help="Show this report from message to fix.", autocompletion=completion.reports)
    ] = None,
    *,
    state: Annotated[str | None, _state(completion.report_states)] = None,
    category: Annotated[str | None, typer.Option(help="Only reports of this category.")] = None,
    principal: Annotated[
        str | None, typer.Option(help="Only reports of this source, token, user:NAME or topic.")
    ] = None,
    reporter: Annotated[str | None, typer.Option(help="Only reports that name this reporter.")] = None,
    severity: Annotated[str | None, typer.Option(help="Only reports of this severity: low, medium or high.")] = None,
    evidence: Annotated[
        str | None,
        typer.Option(help="Only reports with this evidence: unchecked, claimed, reproduced, verified, contradicted."),
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only reports of this tenant.")] = None,
    since: Annotated[datetime | None, _day("Only reports received on this day (UTC) or later.")] = None,
    until: Annotated[datetime | None, _day("Only reports received on this day (UTC) or earlier.")] = None,
    search: Annotated[str | None, typer.Option(help="Only reports with this text in their id or message.")] = None,
    sort: Annotated[Sort, typer.Option(help="The order of the list.")] = Sort.NEWEST,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the reports, or show one.

    One report is shown from message to fix: conversation, analysis, correction, adapters trained on it, answers.
    """
    from connectors.messages import Severity
    from daemon.records import ReportState

    wanted = ReportFilter(
        state=one_of(ReportState, state, "state"),
        category=category,
        severity=one_of(Severity, severity, "severity"),
        evidence=one_of(ShownEvidence, evidence, "kind of evidence"),
        tenant=tenant,
        principal=principal,
        reporter=reporter,
        since=None if since is None else since.date(),
        until=None if until is None else until.date(),
        search=search,
        sort=sort,
    )
    if report_id is not None:
        _show_report(backend.report(report_id), as_json=as_json)
        return
    found = backend.reports(wanted, limit=limit)
    if as_json:
        print_json(found)
        return
    from daemon.operations.views import ReportRow

    rows = [ReportRow.model_validate(one) for one in found]
    table(
        ("ID", "STATE", "CATEGORY", "SEVERITY", "PRINCIPAL", "EVIDENCE", "RECEIVED (UTC)", "WHAT IS WRONG"),
        [
            (
                *(one.id, one.state, one.category_text, one.severity, one.principal, one.evidence_shown),
                *(one.received_at, one.complaint),
            )
            for one in rows
        ],
        empty="No reports.",
    )


@on_backend
def lessons(
    backend: Backend,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the lessons that a training run may use."""
    listing(
        backend.lessons(limit=limit),
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


@on_backend
def runs(
    backend: Backend,
    run_id: Annotated[
        int | None,
        typer.Argument(min=1, max=MAX_NUMBER, help="Show this run with its verdict.", autocompletion=completion.runs),
    ] = None,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the training runs, or show one."""
    if run_id is not None:
        _show_generation(backend.run(run_id), as_json=as_json)
        return
    listing(
        backend.runs(limit=limit),
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


@on_backend
def adapters(
    backend: Backend,
    generation: Annotated[
        int | None,
        typer.Argument(
            min=0,
            max=MAX_NUMBER,
            help="Show this generation with its lineage and verdict.",
            autocompletion=completion.generations,
        ),
    ] = None,
    *,
    state: Annotated[str | None, _state(completion.adapter_states)] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the generations, or show one.

    One generation is shown with its training reports, its evaluation, and the reason why it went live or did not.
    """
    from daemon.records import AdapterState

    wanted = one_of(AdapterState, state)
    if generation is not None:
        _show_generation(backend.adapter(generation), as_json=as_json)
        return
    listing(
        backend.adapters(state=wanted, limit=limit),
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


@on_backend
def audit(
    backend: Backend,
    *,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """List the audit log: actor, action and reason, newest first."""
    listing(
        backend.audit(limit=limit),
        {"AT (UTC)": "at", "WHO": "actor", "DID": "action", "WHAT": "subject", "WHY": "reason"},
        empty="No entries yet.",
        as_json=as_json,
    )


def _show_report(document: Document, *, as_json: bool) -> None:
    from daemon.cli.show import show_report
    from daemon.operations.views import ReportView

    print_json(document) if as_json else show_report(ReportView.model_validate(document))


def _show_generation(document: Document, *, as_json: bool) -> None:
    from daemon.cli.show import show_generation
    from daemon.operations.views import GenerationView

    print_json(document) if as_json else show_generation(GenerationView.model_validate(document))


def _show_status(view: Document) -> None:
    from daemon.operations.progress import span

    for sentence in view["summary"]:
        say(sentence)
    if view["stages"]:
        say()
        table(
            ("STAGE", "LAST STEP", "WHAT IT DID"),
            [(stage["name"], f"{span(stage['age_s'])} ago", stage["sentence"]) for stage in view["stages"]],
            empty="",
        )
