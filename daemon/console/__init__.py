"""Operators' web pages: rendered on the server, without scripts and without anything from another host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from connectors.messages import Identifier
from daemon.config import Config
from daemon.errors import NotFoundError
from daemon.status import progress_words, span, status
from daemon.store import Store
from daemon.views import AdapterRow, ReportRow, generation_view, report_view, suite_scores

LATEST = 20
"""Rows of the overview's tables."""
_HERE = Path(__file__).parent
_HEADERS = {
    # report texts come from outside: no script, no frame, no other origin
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_STYLE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"}


def console_router(store: Store, config: Config) -> APIRouter:
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("/")
    def overview() -> HTMLResponse:
        reports = [ReportRow.of(report) for report in store.reports.find(limit=LATEST)]
        adapters = [AdapterRow.of(adapter) for adapter in store.adapters.find(limit=LATEST)]
        return _page("overview.html", status=status(store, config), reports=reports, adapters=adapters)

    @router.get("/reports/{report_id:path}")
    def report(report_id: Identifier) -> Response:
        return _or_404(lambda: _page("report.html", view=report_view(store, report_id)))

    @router.get("/adapters/{generation}")
    def adapter(generation: int) -> Response:
        return _or_404(lambda: _page("generation.html", view=generation_view(store, generation)))

    @router.get("/runs/{run_id}")
    def run(run_id: int) -> Response:
        """A run owns exactly one generation: one page shows both."""
        return _or_404(lambda: RedirectResponse(f"/adapters/{store.runs.get(run_id).generation}"))

    @router.get("/static/console.css")
    def style() -> FileResponse:
        return FileResponse(_HERE / "static" / "console.css", media_type="text/css", headers=_STYLE_HEADERS)

    return router


def _or_404(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except NotFoundError as exc:
        return _page("missing.html", status_code=404, sentence=str(exc))


def _page(template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    html = _environment().get_template(template).render(**values)
    return HTMLResponse(html, status_code=status_code, headers=_HEADERS)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(when=_when, span=span, progress=progress_words, scores=suite_scores, figures=_figures)
    return environment


def _when(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _figures(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested figures as lines of a table: `flagged guided passed`, `12`."""
    lines: list[tuple[str, str]] = []
    for key, value in figures.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += _figures(value, f"{name} ")
        else:
            lines.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines
