"""One reporter's view on a flagged answer; several reports of one answer have several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ConfigDict

from connectors.messages import Checks, FlaggedResponse, Severity
from daemon.categories import NOT_NAMED, CategorySource, Kind, kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The view of one reporter on a flagged answer. Each report of the same answer adds one.

    `reporter` is a claim of `principal`, who was authenticated.
    """

    __pydantic_config__ = ConfigDict(json_schema_serialization_defaults_required=True)

    report_id: str
    principal: str
    reporter: str
    received_at: datetime
    reason: str
    correction: str | None
    checks: Checks | None
    severity: Severity
    follow_up: str | None = None
    """The user's next message after the flagged answer."""

    @classmethod
    def of(cls, flagged: FlaggedResponse, *, received_at: datetime, principal: str) -> Part:
        return cls(
            report_id=flagged.id,
            principal=principal,
            reporter=flagged.reporter,
            received_at=received_at,
            reason=flagged.reason,
            correction=flagged.correction,
            checks=flagged.checks,
            severity=flagged.severity,
            follow_up=flagged.follow_up,
        )

    @property
    def sender(self) -> str:
        """The reporter and its principal, for people."""
        return f"{self.reporter} of {self.principal}"

    @property
    def rules(self) -> Checks | None:
        """Its checks; None: it has none, or empty ones."""
        return None if self.checks == Checks() else self.checks

    @property
    def content(self) -> list[str | Checks]:
        """Its reason, its follow-up, its correction and its checks, as far as it has them."""
        return [value for value in (self.reason, self.follow_up, self.correction, self.rules) if value]

    def adds_to(self, others: Iterable[Part]) -> bool:
        """Whether its reason, its follow-up, its correction or its checks are in none of the others."""
        known = [value for other in others for value in other.content]
        return any(value not in known for value in self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One analysis of a report. Several may be current: each is a target of the next run.

    A lesson's own `generation` is the one that was asked last, whether or not its analyses passed the checks.
    """

    __pydantic_config__ = ConfigDict(json_schema_serialization_defaults_required=True)

    text: str
    analyst: str
    template: str
    at: datetime
    generation: int | None = None
    """The generation that wrote it; None: another model, a template or a person."""
    current: bool = True
    """False: later ones took its place."""

    @property
    def writer(self) -> str:
        """Who wrote it, for people."""
        return self.analyst if self.generation is None else f"generation {self.generation} ({self.analyst})"


class Categorised:
    """What a report says about the kind of its mistake. A guess is no evidence: it groups reports."""

    __slots__ = ()
    flagged: FlaggedResponse
    guessed_kind: Kind | None
    """The kind that an analyst guessed, because the sender names no category; None: not guessed."""

    @property
    def category(self) -> str:
        """The category that its sender names, else the guessed kind, else NOT_NAMED."""
        return self.flagged.category or self.guessed_kind or NOT_NAMED

    @property
    def category_source(self) -> CategorySource:
        if self.flagged.category is not None:
            return CategorySource.NAMED
        return CategorySource.UNKNOWN if self.guessed_kind is None else CategorySource.GUESSED

    @property
    def kind(self) -> Kind:
        """The kind of the mistake, which may be a guess. What a text may say goes by `flagged` alone."""
        return kind_of(self.category)
