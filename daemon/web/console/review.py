"""The review page: a dense list of what waits, the details of one report, and the last decision to undo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from connectors.messages import Text
from daemon.config.web import Role
from daemon.operations.reviews import ReviewQueueView, ReviewView, review_queue
from daemon.web.access import Identity
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.dependencies import require_form, require_viewer

PER_GROUP = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Reports that wait for the same kind of review. `waiting` counts all, `items` are the first."""

    title: str
    said: str
    waiting: int
    items: Sequence[ReviewView]


def review_router(shell: Shell) -> APIRouter:
    router = APIRouter(route_class=PageRoute, default_response_class=HTMLResponse)
    viewer, reviewer = (Depends(make(shell.access, Role.REVIEWER)) for make in (require_viewer, require_form))

    @router.get("/review")
    def review(
        request: Request, item: Annotated[Text, Query(max_length=200)] = "", who: Identity = viewer
    ) -> HTMLResponse:
        groups = _groups(review_queue(shell.store, limit=PER_GROUP))
        listed = [(group, one) for group in groups for one in group.items]
        at = next((place for place, (_, one) in enumerate(listed) if one.report.id == item), 0)
        group, chosen = listed[at] if listed else (None, None)
        following = (*listed[at + 1 : at + 2], *listed[max(at - 1, 0) : at])
        return shell.page(
            request,
            who,
            "review.html",
            groups=groups,
            group=group,
            item=chosen,
            following=following[0][1].report.id if following else "",
            last=shell.store.reviews.last(who.name),
        )

    @router.post("/undo")
    def undo(who: Identity = reviewer) -> RedirectResponse:
        undone = shell.store.reviews.undo(actor=who.name)
        return RedirectResponse(f"/review?{urlencode({'item': undone.report_id, 'did': 'undo'})}", 303)

    return router


def _groups(queue: ReviewQueueView) -> list[Group]:
    found = (
        Group(
            title="Quarantined",
            said="Above its reporter's daily cap, or set aside by a person. Accept puts the report into the queue; "
            "reject buries it.",
            waiting=queue.quarantined_waiting,
            items=queue.quarantined,
        ),
        Group(
            title="Something set aside",
            said="A correction or a check of this report is not used, for the reason given with it. Accept approves "
            "the analysis.",
            waiting=queue.set_aside_waiting,
            items=queue.set_aside,
        ),
        Group(
            title="Analyses",
            said="The next run trains on this analysis; it does not wait for the review. Accept a right one, correct "
            "a nearly right one, reject a wrong one.",
            waiting=queue.analyses_waiting,
            items=queue.analyses,
        ),
    )
    return [group for group in found if group.waiting]
