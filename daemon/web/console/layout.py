"""The frame of every page: templates, security headers, navigation, and error pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException

from connectors.messages import sentences
from daemon.config.web import Role
from daemon.errors import ErratadError, IllegalTransitionError, NotFoundError, StoreUnavailableError
from daemon.operations.progress import progress_text, span
from daemon.operations.scores import strength_lines, suite_scores
from daemon.records import utcnow
from daemon.retest import tally_text
from daemon.store import Store
from daemon.text.visible import visible
from daemon.web.access import Access, Identity

_HERE = Path(__file__).parent
HEADERS = {
    # reports hold untrusted text: no foreign script, no frame, no other origin
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with 'no-referrer' browsers post forms from the origin "null"
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_STATIC_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"}
_STATUS: dict[type[ErratadError], int] = {NotFoundError: 404, IllegalTransitionError: 409, StoreUnavailableError: 503}
_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not possible",
    422: "The form is not complete",
    429: "Too many attempts",
    503: "The database does not answer",
}
NOTICES = {
    "accept": "Accepted.",
    "correct": "Corrected: the next run trains on your text.",
    "reject": "Rejected.",
    "requeue": "Queued: it will be analysed again.",
    "undo": "Undone: the report is as it was before your last decision.",
    "accept-one": "Accepted.",
    "accept-many": "Accepted all selected reports.",
    "reject-one": "Rejected.",
    "reject-many": "Rejected all selected reports.",
    "requeue-one": "Queued: it will be analysed again.",
    "requeue-many": "Queued: the selected reports will be analysed again.",
    "erase": "Erased: the content is permanently removed.",
    "train": "Training run requested; the scheduler takes it up.",
    "induce": "Induction requested; the daemon carries it out.",
    "promote": "Promotion requested; the daemon carries it out.",
    "rollback": "Rollback requested; the daemon carries it out.",
    "approve": "Approved; the daemon takes it live.",
    "refuse": "The candidate is rejected and will not go live.",
    "pause": "Paused: running steps finish, no new steps start.",
    "resume": "Resumed.",
}
"""The notice after a form, by `did` of the page's address. A fixed set: a link cannot inject other text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    store: Store
    access: Access

    def page(self, request: Request, who: Identity, template: str, **values: Any) -> HTMLResponse:
        waiting = self.store.reviews.waiting()
        return render(
            template,
            who=who,
            csrf=self.access.form_token(who),
            may=lambda role: who.role.covers(Role(role)),
            can_sign_out=bool(who.session) and not self.access.is_proxy(_peer(request)),
            here=request.url.path,
            notice=NOTICES.get(request.query_params.get("did", "")),
            to_review=waiting.total,
            **values,
        )


class PageRoute(APIRoute):
    """Answers errors with an HTML page. The API answers the same errors with JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(request)
            except HTTPException as exc:
                headers = dict(exc.headers or {})
                if "Location" in headers:
                    return RedirectResponse(headers["Location"], exc.status_code)
                return _problem(exc.status_code, exc.detail, headers)
            except RequestValidationError as exc:
                fields = [{**error, "loc": error["loc"][-1:]} for error in exc.errors()]
                return _problem(422, "; ".join(sentences(fields, whole="form")))
            except (NotFoundError, IllegalTransitionError, StoreUnavailableError) as exc:
                return _problem(_STATUS[type(exc)], str(exc))

        return handle


def _peer(request: Request) -> str | None:
    return None if request.client is None else request.client.host


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> HTMLResponse:
    title = _TITLES.get(status, "Something went wrong")
    return render("problem.html", status_code=status, headers=headers, title=title, sentence=sentence)


def render(
    template: str, *, status_code: int = 200, headers: dict[str, str] | None = None, **values: Any
) -> HTMLResponse:
    html = _environment().get_template(template).render(now=utcnow(), **values)
    return HTMLResponse(html, status_code=status_code, headers={**HEADERS, **(headers or {})})


def static_router() -> APIRouter:
    router = APIRouter()

    @router.get("/static/console.css")
    def style() -> FileResponse:
        return FileResponse(_HERE / "static" / "console.css", media_type="text/css", headers=_STATIC_HEADERS)

    @router.get("/static/console.js")
    def script() -> FileResponse:
        return FileResponse(_HERE / "static" / "console.js", media_type="text/javascript", headers=_STATIC_HEADERS)

    return router


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_seen,
    )
    environment.globals.update(who=None, here="", notice=None, to_review=0, csrf="", can_sign_out=False)
    environment.filters.update(
        when=_when,
        ago=_ago,
        span=span,
        progress=progress_text,
        scores=suite_scores,
        strengths=strength_lines,
        tally=tally_text,
        figures=_figures,
        number=_number,
        code=_code,
    )
    return environment


def _seen(value: object) -> object:
    """What a page shows of a value: every unseen character of a text as its code. Markup was made from such texts."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _when(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _number(count: int) -> str:
    """With commas between thousands."""
    return f"{count:,}"


def _ago(at: datetime) -> str:
    seconds = (utcnow() - at).total_seconds()
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def _code(text: str) -> Markup:
    """The escaped text, with `name` in backticks as a code element."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))  # noqa: S704 - escaped before


def _figures(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested figures as rows of a table, e.g. ("flagged guided passed", "12")."""
    lines: list[tuple[str, str]] = []
    for key, value in figures.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if isinstance(value, dict):
            lines += _figures(value, f"{name} ")
        else:
            lines.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines
