"""Listings of reports over HTTP: the filter in the query, and the file that a browser saves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from itertools import chain
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field

from connectors.messages import Severity, Text
from daemon.operations.export import MEDIA_TYPES, Format, exported
from daemon.records import ReportState
from daemon.report_filter import ReportFilter, ShownEvidence, Sort
from daemon.store import Store

EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, as it is read.",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in MEDIA_TYPES.values()},
    }
}
"""The answer of an export, for OpenAPI."""
_Empty = BeforeValidator(lambda value: value.strip() or None if isinstance(value, str) else value)
"""A field of a form that is left empty. Limits stand inside of the types: they do not apply to None."""
_Name = Annotated[Text, Field(max_length=200)]
_Day = Annotated[date, Field(le=date(9999, 1, 1))]


def report_filter(
    *,
    state: Annotated[ReportState | None, _Empty] = None,
    category: Annotated[_Name | None, _Empty] = None,
    severity: Annotated[Severity | None, _Empty] = None,
    evidence: Annotated[
        ShownEvidence | None, _Empty, Query(description="As in `evidence_shown`; unchecked: not looked at.")
    ] = None,
    tenant: Annotated[_Name | None, _Empty] = None,
    principal: Annotated[_Name | None, _Empty, Query(description="A source, token, user:NAME or topic.")] = None,
    reporter: Annotated[_Name | None, _Empty] = None,
    search: Annotated[_Name | None, _Empty, Query(description="Part of an id or of any text.")] = None,
    since: Annotated[_Day | None, _Empty, Query(description="The first day of receipt, UTC.")] = None,
    until: Annotated[_Day | None, _Empty, Query(description="The last day of receipt, UTC.")] = None,
    sort: Sort = Sort.NEWEST,
) -> ReportFilter:
    return ReportFilter(
        state=state,
        category=category,
        severity=severity,
        evidence=evidence,
        tenant=tenant,
        principal=principal,
        reporter=reporter,
        search=search,
        since=since,
        until=until,
        sort=sort,
    )


def export_answer(
    store: Store, wanted: ReportFilter, kind: Format, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """The export as it is read. The first part is read before, so that a database that does not answer is an error."""
    parts = exported(store, wanted, kind)
    name = {"Content-Disposition": f'attachment; filename="reports.{kind}"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(
        chain([next(parts)], parts), media_type=MEDIA_TYPES[kind], headers={**(headers or {}), **name}
    )
