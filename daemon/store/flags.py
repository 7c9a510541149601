"""Flagged answers of each generation as votes: what a crowd of names in one principal sends counts once.

A flag is a vote of its reporter if the operator vouches for its principal, or if the server's own record holds the
flagged answer. All other flags of a principal are one vote together, because it can make up names. Where several
principals flag answers, the caller bounds those without trust (`most`): names of recorded answers can be made up, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, Subquery, case, func, or_, select

from daemon.labels import Names
from daemon.records import Evidence, ReportState, utcnow
from daemon.store import schema
from daemon.store.engine import reading
from daemon.store.traffic import on_real_traffic

RECENT = timedelta(days=1)
"""Reports of this time tell whether the senders name generations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Electorate:
    """Whose flags count, and how."""

    is_trusted: Callable[[str], bool]
    """Whether the operator vouches for a principal."""
    evidence: frozenset[Evidence]
    """The evidence that a flag of another principal needs to count at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Votes, and the number of principals that they come from."""

    votes: int = 0
    principals: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voters:
    """Who may vote: principals, those of them with recorded answers, and whether one of them is trusted."""

    principals: int
    recorded: int
    trusted: bool


class Flags:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def votes(
        self, generation: int, electorate: Electorate, *, since: datetime | None = None, most: int | None = None
    ) -> Votes:
        """The votes against a generation's answers since this time; each voter has one.

        `most`: votes of a principal that is not trusted.
        """
        counted = self._counted(electorate, [generation], since)
        query = select(counted.c.principal, func.count(counted.c.voter.distinct())).group_by(counted.c.principal)
        with reading(self._engine) as connection:
            found: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
        votes = (
            count if most is None or electorate.is_trusted(principal) else min(count, most)
            for principal, count in found.items()
        )
        return Votes(votes=sum(votes), principals=len(found))

    def first_votes(self, generations: Sequence[int], electorate: Electorate, *, since: datetime) -> dict[int, Votes]:
        """Each voter's first flag since then, by the generation that it falls on.

        If generations answer side by side, a first flag falls on each in proportion to its requests. So a voter counts
        once, and frequent ones favour no side.
        """
        counted = self._counted(electorate, generations, since)
        place = func.row_number().over(
            partition_by=(counted.c.principal, counted.c.voter), order_by=(counted.c.received_at, counted.c.id)
        )
        first = select(counted.c.generation, counted.c.principal, place.label("place")).subquery()
        query = (
            select(first.c.generation, func.count(), func.count(first.c.principal.distinct()))
            .where(first.c.place == 1)
            .group_by(first.c.generation)
        )
        with reading(self._engine) as connection:
            found = {row[0]: Votes(votes=row[1], principals=row[2]) for row in connection.execute(query)}
        return {generation: found.get(generation, Votes()) for generation in generations}

    def voters(self, electorate: Electorate, *, since: datetime) -> Voters:
        """The principals whose flags counted since this time, on any generation."""
        table = schema.reports
        query = select(table.c.principal, func.max(case((_verified(), 1), else_=0))).where(
            *on_real_traffic(), table.c.received_at >= since
        )
        with reading(self._engine) as connection:
            evident = query.where(table.c.evidence.in_(electorate.evidence)).group_by(table.c.principal)
            found: dict[str, int] = {row[0]: row[1] for row in connection.execute(evident)}
            vouched = [one for one in self._principals(since) if electorate.is_trusted(one)]
        recorded = sum(found.values())
        return Voters(principals=len({*found, *vouched}), recorded=recorded, trusted=bool(vouched))

    def named(self, *, alias: str | None = None, base_name: str | None = None) -> dict[Names, int]:
        """The recent reports by what they name. A flag whose report names no generation counts for none.

        Args:
            alias: Reports that name it are told from those of other models.
            base_name: The base model's name, beside that of generation 0.
        """
        model, known = schema.reports.c.model, schema.adapters.c.name.is_not(None)
        names = case(
            (or_(known, model == base_name), Names.GENERATION.value),
            (model == alias, Names.ALIAS.value),
            else_=Names.OTHER.value,
        ).label("names")
        query = (
            select(names, func.count())
            .select_from(schema.reports)
            .outerjoin(schema.adapters, schema.adapters.c.name == model)
            .where(
                *on_real_traffic(),
                schema.reports.c.state != ReportState.ERASED,
                schema.reports.c.received_at >= utcnow() - RECENT,
            )
            .group_by(names)
        )
        with reading(self._engine) as connection:
            found: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
        return {one: found.get(one, 0) for one in Names}

    def _counted(self, electorate: Electorate, generations: Sequence[int], since: datetime | None) -> Subquery:
        """The flags that count, each with its principal and its voter (empty: the principal as a whole)."""
        table, adapters = schema.reports, schema.adapters
        trusted = table.c.principal.in_([one for one in self._principals(since) if electorate.is_trusted(one)])
        voter = case((or_(trusted, _verified()), table.c.reporter), else_="").label("voter")
        return (
            select(adapters.c.generation, table.c.id, table.c.principal, table.c.received_at, voter)
            .join(adapters, adapters.c.name == table.c.model)
            .where(
                adapters.c.generation.in_(generations),
                *on_real_traffic(),
                table.c.evidence != Evidence.CONTRADICTED,
                or_(trusted, table.c.evidence.in_(electorate.evidence)),
                *([] if since is None else [table.c.received_at >= since]),
            )
            .subquery()
        )

    def _principals(self, since: datetime | None) -> list[str]:
        table = schema.reports
        query: Any = select(table.c.principal).distinct()
        if since is not None:
            query = query.where(table.c.received_at >= since)
        with reading(self._engine) as connection:
            return list(connection.execute(query.order_by(table.c.principal)).scalars())


def _verified() -> ColumnElement[bool]:
    return schema.reports.c.evidence == Evidence.VERIFIED
