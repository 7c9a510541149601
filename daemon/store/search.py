"""Which reports a listing shows."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Select, String, Text, cast, func, or_, select, type_coerce

from daemon.records import ReportState
from daemon.store import schema

CATEGORY = func.coalesce(type_coerce(schema.reports.c.guessed_kind, String), schema.reports.c.category)
"""As shown: only a report that names no category has a guess."""


def matching(
    *, state: ReportState | None, category: str | None, principal: str | None, reporter: str | None, search: str | None
) -> Select[Any]:
    """The reports with all of these values, newest first. None and an empty `search` match everything."""
    table = schema.reports
    query = select(table).order_by(table.c.received_at.desc(), table.c.id)
    wanted = {
        table.c.state: state,
        CATEGORY: category,
        table.c.principal: principal,
        table.c.reporter: reporter,
    }
    for column, value in wanted.items():
        if value is not None:
            query = query.where(column == value)
    return query.where(contains(search)) if search else query


def contains(search: str) -> ColumnElement[bool]:
    """Whether a part of an id, or of any text of the message, is `search`; case does not matter."""
    table = schema.reports
    as_stored = json.dumps(search)[1:-1]  # JSON escapes all characters outside ASCII
    return or_(
        table.c.id.icontains(search, autoescape=True),
        table.c.sent_id.icontains(search, autoescape=True),
        cast(table.c.flagged, Text).icontains(as_stored, autoescape=True),
    )
