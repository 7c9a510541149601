"""Decisions about many reports: those that are selected in the list, or all that a filter finds.

All are decided in batches of AT_ONCE, a request each, so that no request takes long; a page between them says how far
it is. Every report is decided by itself and has its own entry in the audit log: one that is refused stops no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import AwareDatetime

from connectors.messages import Identifier
from daemon.config.web import Role
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import Report, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.store.counts import MAX_COUNTED
from daemon.web.access import Identity
from daemon.web.console.forms import Back, Reason, acts, back_to
from daemon.web.console.layout import PageRoute, Shell
from daemon.web.console.sessions import local
from daemon.web.dependencies import require_form, require_viewer
from daemon.web.reports import report_filter

MAX_SELECTED = 200
AT_ONCE = 500
MAX_LISTED = 50
"""Of the refused reports on the page."""

BulkDecision = Annotated[Literal["accept", "reject", "requeue"], Form()]
Filter = Annotated[ReportFilter, Depends(report_filter)]
Done = Annotated[int, Form(ge=0, le=10**9)]


@dataclass(slots=True)
class Batch:
    """Reports that were decided, those that were refused with the reason, and the last one of both."""

    done: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    last: str | None = None

    @classmethod
    def of(cls, act: Callable[..., object], report_ids: Iterable[str], *, actor: str, reason: str) -> Batch:
        batch = cls()
        for batch.last in report_ids:
            try:
                act(batch.last, actor=actor, reason=reason)
                batch.done += 1
            except (IllegalTransitionError, NotFoundError) as exc:
                batch.refused[batch.last] = str(exc)
        return batch


def bulk_router(shell: Shell) -> APIRouter:
    router = APIRouter(route_class=PageRoute)
    _add_selected(router, shell)
    _add_all(router, shell)
    return router


def _add_selected(router: APIRouter, shell: Shell) -> None:
    reviewer = Depends(require_form(shell.access, Role.REVIEWER))

    @router.post("/bulk", response_model=None)
    def bulk(
        *,
        request: Request,
        report_ids: Annotated[list[Identifier], Form(min_length=1, max_length=MAX_SELECTED)],
        decision: BulkDecision,
        reason: Reason,
        back: Back = "/reports",
        who: Identity = reviewer,
    ) -> Response:
        batch = Batch.of(acts(shell.store)[decision], dict.fromkeys(report_ids), actor=who.name, reason=reason)
        if not batch.refused:
            return back_to(back, f"{decision}-{'one' if batch.done == 1 else 'many'}")
        return _result(shell, request, who, batch, decision=decision, to=local(back))


def _add_all(router: APIRouter, shell: Shell) -> None:
    store = shell.store
    viewer = Depends(require_viewer(shell.access, Role.REVIEWER))
    reviewer = Depends(require_form(shell.access, Role.REVIEWER))

    @router.get("/bulk-all")
    def ask(request: Request, wanted: Filter, who: Identity = viewer) -> HTMLResponse:
        return shell.page(
            request,
            who,
            "bulk_all.html",
            wanted=wanted,
            query=urlencode(wanted.query),
            total=store.reports.count(wanted),
            max_counted=MAX_COUNTED,
            at_once=AT_ONCE,
            shown_at=utcnow().isoformat(),
        )

    @router.post("/bulk-all")
    def decide(
        *,
        request: Request,
        wanted: Filter,
        decision: BulkDecision,
        reason: Reason,
        shown_at: Annotated[AwareDatetime, Form()],
        sure: Annotated[Literal["yes"], Form()],
        after: Annotated[Identifier | None, Form()] = None,
        done: Done = 0,
        refused: Done = 0,
        who: Identity = reviewer,
    ) -> HTMLResponse:
        """The next batch. `shown_at`: reports that came later were not counted on the page, and are left alone."""
        del sure
        found = _ids(store, wanted, shown_at, after)
        batch = Batch.of(acts(store)[decision], islice(found, AT_ONCE), actor=who.name, reason=reason)
        batch.done += done
        again = {"decision": decision, "reason": reason, "shown_at": shown_at.isoformat(), "after": batch.last}
        query = urlencode(wanted.query)
        return _result(
            shell,
            request,
            who,
            batch,
            decision=decision,
            to=f"/reports?{query}",
            before=refused,
            again=again if next(found, None) is not None else None,
            query=query,
        )


def _ids(store: Store, wanted: ReportFilter, shown_at: datetime, after: str | None) -> Iterator[str]:
    """Ids of the reports that a filter finds, newest first, up to a time; `after`: those that come after this one.

    A decision takes reports out of a filter by state, so a batch is read before the first of its reports is decided.
    """
    last: Report | None = None if after is None else store.reports.get(after)
    for batch in store.reports.batches(wanted, size=AT_ONCE, end=last):
        yield from [report.id for report in batch if report.received_at <= shown_at]


def _result(
    shell: Shell,
    request: Request,
    who: Identity,
    batch: Batch,
    *,
    decision: str,
    to: str,
    before: int = 0,
    again: Mapping[str, str | None] | None = None,
    query: str = "",
) -> HTMLResponse:
    return shell.page(
        request,
        who,
        "bulk.html",
        decision=decision,
        done=batch.done,
        refused=dict(islice(batch.refused.items(), MAX_LISTED)),
        refusals=before + len(batch.refused),
        to=to,
        again=again,
        query=query,
    )
