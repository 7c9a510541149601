"""The console's read-only pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse

from connectors.messages import Identifier
from daemon.artifacts.examples import Example
from daemon.config import Config
from daemon.config.masking import masked
from daemon.config.web import Role
from daemon.dataset.recipes import previewed
from daemon.errors import NotFoundError
from daemon.operations.export import Format
from daemon.operations.shown import MeasuredView
from daemon.operations.stages import PAUSABLE
from daemon.operations.status import status, trial_view
from daemon.operations.views import GenerationView, ReportRow, ReportView, generation_view, report_view
from daemon.records import MAX_NUMBER, AdapterState, Intent, ReportState, Run, RunState, Verdict
from daemon.report_filter import ReportFilter, ShownEvidence
from daemon.store import Store
from daemon.store.counts import MAX_COUNTED
from daemon.store.duplicates import WITH_ANALYSIS
from daemon.store.search import MAX_FOUND
from daemon.transitions import ADAPTER_TRANSITIONS
from daemon.trust.policy import Policy
from daemon.web.access import Identity
from daemon.web.console.charts import funnel, lineage, loss_plot, margin_plot
from daemon.web.console.layout import HEADERS, PageRoute, Shell
from daemon.web.dependencies import require_viewer
from daemon.web.reports import export_answer, report_filter

LATEST = 8
"""Rows of the overview's tables."""
PER_PAGE = 25
ANSWERS_PER_PAGE = 10
SHOWN_GENERATIONS = 30

Filter = Annotated[ReportFilter, Depends(report_filter)]
Rows = Annotated[int, Query(ge=1, le=200)]
PageNumber = Annotated[int, Query(alias="page", ge=1, le=100_000)]
Number = Annotated[int, Path(ge=0, le=MAX_NUMBER)]
AnswerFilter = Literal["changed", "fixed", "broken", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The position in a listing. `more`: there is a next page."""

    number: int
    more: bool
    query: str
    """The other query parameters of the page."""
    last: int | None = None
    """The number of the last page, where the total is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """One step of a report from message to fix."""

    name: str
    done: bool
    detail: str


def pages_router(shell: Shell, config: Config) -> APIRouter:
    router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
    _add_reports(router, shell, config)
    _add_adapters(router, shell, config)
    _add_runs(router, shell)
    _add_overview(router, shell, config)
    return router


def _add_reports(router: APIRouter, shell: Shell, config: Config) -> None:
    store = shell.store
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/reports")
    def reports(
        request: Request, wanted: Filter, number: PageNumber = 1, rows: Rows = PER_PAGE, who: Identity = viewer
    ) -> HTMLResponse:
        total = store.reports.count(wanted)
        found = store.reports.find(wanted, limit=rows, offset=(number - 1) * rows)
        return shell.page(
            request,
            who,
            "reports.html",
            reports=[ReportRow.of(report) for report in found],
            pages=page_of(request, number, more=number * rows < total, last=-(-total // rows)),
            total=total,
            max_counted=MAX_FOUND if wanted.search else MAX_COUNTED,
            states=list(ReportState),
            evidences=list(ShownEvidence),
            categories=store.reports.categories(),
            wanted=wanted,
            rows=rows,
            query=urlencode(wanted.query),
        )

    @router.get("/export", dependencies=[viewer])
    def export(wanted: Filter, kind: Annotated[Format, Query(alias="format")]) -> StreamingResponse:
        return export_answer(store, wanted, kind, HEADERS)

    @router.get("/reports/{report_id:path}")
    def report(request: Request, report_id: Identifier, who: Identity = viewer) -> HTMLResponse:
        view = report_view(store, config, report_id)
        return shell.page(
            request,
            who,
            "report.html",
            view=view,
            certificate=_certificate(store, view),
            milestones=_milestones(view),
            examples=_examples(store, config, report_id),
            can_review=view.report.state in {ReportState.QUARANTINED, *WITH_ANALYSIS},
            can_requeue=view.report.state in {ReportState.BURIED, ReportState.DUPLICATE, *WITH_ANALYSIS},
        )


def _add_adapters(router: APIRouter, shell: Shell, config: Config) -> None:
    store = shell.store
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/adapters")
    def adapters(request: Request, who: Identity = viewer) -> HTMLResponse:
        rows = store.adapters.find(limit=SHOWN_GENERATIONS)
        runs = store.runs.find(limit=SHOWN_GENERATIONS)
        return shell.page(
            request,
            who,
            "adapters.html",
            adapters=rows,
            lineage=lineage(rows, runs),
            live=store.adapters.live(),
            previous=store.adapters.previous(),
            trial=trial_view(store, config),
            intents=_intents(store),
        )

    @router.get("/adapters/{generation}")
    def adapter(
        request: Request,
        generation: Number,
        show: AnswerFilter = "changed",
        number: PageNumber = 1,
        who: Identity = viewer,
    ) -> HTMLResponse:
        view = generation_view(store, generation)
        trial = trial_view(store, config)
        shown = [item for item in view.measured if _is_shown(item, show)]
        start = (number - 1) * ANSWERS_PER_PAGE
        return shell.page(
            request,
            who,
            "generation.html",
            view=view,
            live=store.adapters.live(),
            trial=trial if trial is not None and trial.generation == generation else None,
            margins=margin_plot(view.measured),
            losses=loss_plot((view.run.progress.get("losses") or []) if view.run is not None else []),
            answers=shown[start : start + ANSWERS_PER_PAGE],
            shown=len(shown),
            show=show,
            pages=page_of(request, number, more=len(shown) > start + ANSWERS_PER_PAGE),
            intents=_intents(store),
            **possible(view),
        )


def _add_runs(router: APIRouter, shell: Shell) -> None:
    store = shell.store
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/runs")
    def runs(request: Request, number: PageNumber = 1, who: Identity = viewer) -> HTMLResponse:
        found = store.runs.find(limit=number * PER_PAGE + 1)
        start = (number - 1) * PER_PAGE
        return shell.page(
            request,
            who,
            "runs.html",
            runs=found[start : start + PER_PAGE],
            pages=page_of(request, number, more=len(found) > start + PER_PAGE),
            active=any(run.finished_at is None for run in found),
        )

    @router.get("/runs/{run_id}", dependencies=[viewer])
    def run(run_id: Number) -> RedirectResponse:
        """A run has exactly one generation, so one page shows both."""
        return RedirectResponse(f"/adapters/{store.runs.get(run_id).generation}")


def _add_overview(router: APIRouter, shell: Shell, config: Config) -> None:
    store = shell.store
    viewer, operator = (Depends(require_viewer(shell.access, role)) for role in (Role.REVIEWER, Role.OPERATOR))

    @router.get("/")
    def overview(request: Request, who: Identity = viewer) -> HTMLResponse:
        now = status(store, config)
        return shell.page(
            request,
            who,
            "overview.html",
            status=now,
            funnel=funnel(now.reports),
            verdict=_last_verdict(store),
            reports=[ReportRow.of(report) for report in store.reports.find(limit=LATEST)],
            intents=_intents(store),
            pausable=PAUSABLE,
        )

    @router.get("/settings")
    def settings(request: Request, who: Identity = operator) -> HTMLResponse:
        return shell.page(request, who, "settings.html", settings=masked(config))

    @router.get("/audit")
    def audit(request: Request, number: PageNumber = 1, who: Identity = operator) -> HTMLResponse:
        found = store.audit.entries(limit=PER_PAGE + 1, offset=(number - 1) * PER_PAGE)
        return shell.page(
            request,
            who,
            "audit.html",
            entries=found[:PER_PAGE],
            pages=page_of(request, number, more=len(found) > PER_PAGE),
        )


def page_of(request: Request, number: int, *, more: bool, last: int | None = None) -> Pages:
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in {"page", "did"} and value]
    return Pages(number=number, more=more, query=urlencode(kept), last=last)


def _intents(store: Store) -> list[Intent]:
    return store.intents.recent(limit=5)


def _examples(store: Store, config: Config, report_id: str) -> list[Example]:
    """The training examples that a run would make from the current lesson."""
    lesson = store.reports.lesson(report_id)
    report = store.reports.get(report_id)
    if lesson is None or report.flagged.not_trainable:
        return []
    return previewed(config.dataset, report, lesson, vouched=Policy.of(config).vouches(report, lesson))


def _certificate(store: Store, view: ReportView) -> Mapping[str, Any] | None:
    """Of the report's erasure. Reports erased by earlier versions have none."""
    if view.report.state != ReportState.ERASED:
        return None
    try:
        return store.erasures.get(view.report.id).certificate
    except NotFoundError:
        return None


def _milestones(view: ReportView) -> list[Milestone]:
    report, lesson = view.report, view.lesson
    trained = ", ".join(adapter.name for adapter in view.trained_in)
    retested = view.retests[0].counts if view.retests else f"{len(view.measured)} answers"
    held_out = "held out for evaluation" if view.measured and not trained else ""
    return [
        Milestone(name="Flagged", done=True, detail=f"{report.received_at:%Y-%m-%d %H:%M}"),
        Milestone(name="Analysed", done=lesson is not None, detail="" if lesson is None else lesson.analyst),
        Milestone(name="Trained on", done=bool(trained or held_out), detail=trained or held_out),
        Milestone(name="Re-tested", done=bool(view.measured), detail=retested),
        Milestone(
            name="Fixed",
            done=report.state == ReportState.RESOLVED,
            detail=f"generation {report.resolved_generation}",
        ),
    ]


def _last_verdict(store: Store) -> tuple[Verdict, Run, str] | None:
    """The newest verdict with a headline: the held-out reports if accepted, else the first failed criterion."""
    for run in store.runs.find(limit=10):
        verdict = store.runs.verdict(run.id)
        if verdict is not None:
            return verdict, run, next(iter(verdict.reasons), "no reason given")
    return None


def _is_shown(item: MeasuredView, show: AnswerFilter) -> bool:
    before, after = item.before, item.after
    if show == "all" or before is None or after is None:
        return True
    if show == "changed":
        return before.text != after.text
    good, bad = (after, before) if show == "fixed" else (before, after)
    return good.passed is True and bad.passed is False


def possible(view: GenerationView) -> dict[str, bool]:
    """The commands that the state of a generation allows."""
    state, waits = view.adapter.state, view.run is not None and view.run.state == RunState.PROMOTING
    return {
        "can_promote": waits and AdapterState.LIVE in ADAPTER_TRANSITIONS[state],
        "can_refuse": waits,
        "can_roll_back_to": state == AdapterState.RETIRED,
        "can_approve": state == AdapterState.ROLLED_BACK and view.adapter.files_removed_at is None,
    }
