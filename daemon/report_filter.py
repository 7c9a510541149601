"""Which reports a listing shows, and in which order: one filter for the command line, the API, the console, the store.

Imports nothing heavy: the command line builds it at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from enum import StrEnum
from typing import Self


class Sort(StrEnum):
    """The order of a listing; equal reports stand newest first."""

    NEWEST = "newest"
    OLDEST = "oldest"
    CHANGED = "changed"
    """The latest change of state first."""
    SEVERITY = "severity"
    """The most severe first."""


class ShownEvidence(StrEnum):
    """Evidence as listings show it and filter by it: `claimed` without the reports that were not looked at."""

    CONTRADICTED = "contradicted"
    UNCHECKED = "unchecked"
    """Claimed, and not looked for, yet or at all: a duplicate is not looked at."""
    CLAIMED = "claimed"
    REPRODUCED = "reproduced"
    VERIFIED = "verified"

    @classmethod
    def of(cls, evidence: str, looked_at: datetime | None) -> Self:
        """`evidence`: as stored, an `Evidence`."""
        return cls.UNCHECKED if evidence == cls.CLAIMED and looked_at is None else cls(evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFilter:
    """The reports to list, those that fit all of this; None: any."""

    state: str | None = None
    category: str | None = None
    severity: str | None = None
    evidence: str | None = None
    """A `ShownEvidence`."""
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
