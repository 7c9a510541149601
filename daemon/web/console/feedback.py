"""The page of feedback that is no report, or none yet: thumbs, comments and edits about a completion id."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BeforeValidator

from connectors.messages import Rating
from daemon.config.web import Role
from daemon.labels import SignalState, signal_text
from daemon.store.signal_table import Signal
from daemon.web.access import Identity
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.console.pages import PER_PAGE, PageNumber, page_of
from daemon.web.dependencies import require_viewer

Chosen = Annotated[SignalState | None, BeforeValidator(lambda value: value or None), Query()]


def feedback_pages(shell: Shell) -> APIRouter:
    router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))

    @router.get("/feedback")
    def feedback(
        request: Request, state: Chosen = None, number: PageNumber = 1, who: Identity = viewer
    ) -> HTMLResponse:
        signals = shell.store.signals
        found = signals.find(state=state, limit=PER_PAGE + 1, offset=(number - 1) * PER_PAGE)
        return shell.page(
            request,
            who,
            "feedback.html",
            signals=[(one, kind_of(one), signal_text(one.state, one.lost)) for one in found[:PER_PAGE]],
            counts=signals.counts(),
            state=state,
            pages=page_of(request, number, more=len(found) > PER_PAGE),
        )

    return router


def kind_of(signal: Signal) -> str:
    """What its sender said, in the words of the page."""
    flagged = signal.flagged
    if signal.state is SignalState.ERASED:
        return "erased"
    if flagged.rating is Rating.UP:
        return "thumb up"
    given = {"edit": flagged.correction, "follow-up": flagged.follow_up, "comment": flagged.reason}
    return ", ".join(name for name, text in given.items() if text) or "thumb down"
