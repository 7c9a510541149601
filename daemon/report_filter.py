"""Which reports a listing shows, and in which order: one filter for the command line, the API, the console, the store.

Imports nothing heavy: the command line builds it at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from enum import StrEnum


class Sort(StrEnum):
    """The order of a listing; equal reports stand newest first."""

    NEWEST = "newest"
    OLDEST = "oldest"
    CHANGED = "changed"
    """The latest change of state first."""
    SEVERITY = "severity"
    """The most severe first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """The reports to list, those that fit all of this; None: any."""

    state: str | None = None
    category: str | None = None
    severity: str | None = None
    evidence: str | None = None
    tenant: str | None = None
    principal: str | None = None
    reporter: str | None = None
    search: str | None = None
    """A part of an id or of any text of the message; case does not matter."""
    since: date | None = None
    """The first day of receipt, in UTC."""
    until: date | None = None
    """The last day of receipt, in UTC."""
    sort: Sort = Sort.NEWEST

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the API and of the console's pages; what is left at its default is left out."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(value) for name, value in given.items() if value and (name, value) != ("sort", Sort.NEWEST)}


ALL = ReportFilter()
