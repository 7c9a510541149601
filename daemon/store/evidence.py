"""The evidence that the model gave the flagged answers: which reports wait for it, and what was found."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, Engine, Select, select, text, update

from daemon.errors import IllegalTransitionError
from daemon.records import Evidence, Report, ReportState, utcnow
from daemon.store import schema
from daemon.store.audit import record_audit
from daemon.store.counts import counted, report_counts, up_to
from daemon.store.duplicates import WITH_ANALYSIS, with_others
from daemon.store.engine import reading, transaction
from daemon.store.reports import report_row

MAX_DETAIL = 300
"""Characters kept of a detail."""
LOOKED_FOR = (ReportState.QUEUED, ReportState.REFLECTING, *WITH_ANALYSIS)
"""States of reports whose evidence is looked for: they stand for their answer and are not fixed yet."""
AT_BIRTH = "erratad asked for this answer itself, with a misleading hint"


class ReportEvidence:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due(self, *, limit: int, after: str = "", skip: Collection[str] = ()) -> list[Report]:
        """Reports whose evidence was not looked for yet, in turn over the principals.

        The principals follow each other by name, from the one after `after` on and round again, each with its oldest
        report. So a principal with many reports does not hold up the others, and each pick is one look into the index.

        Args:
            skip: Ids of reports that are not wanted now.
        """
        found: list[object] = []
        taken, last, wrapped = set(skip), after, False
        with reading(self._engine) as connection:
            while len(found) < limit:
                row = connection.execute(_next(last, taken)).one_or_none()
                if row is not None:
                    found.append(row)
                    taken.add(row.id)
                    last, wrapped = row.principal, False
                elif wrapped:
                    break
                else:
                    last, wrapped = "", True
            return with_others(connection, found)

    def record(self, report_id: str, evidence: Evidence, detail: str, *, generation: str | None = None) -> bool:
        """Store what was found. False if the report is no longer looked for: erased, for example, or reviewed.

        `updated_at` stays, because the lease of an analysis depends on it.

        Args:
            generation: The name of the generation that gave the answer; the report counts as a flag of it. None: of
                the one that the report names. A proxy in front of the servers may have replaced that name.
        """
        table = schema.reports
        served = {} if generation is None else {"model": generation}
        change = (
            update(table)
            .where(table.c.id == report_id, text(schema.WITHOUT_EVIDENCE))
            .values(evidence=evidence, evidence_detail=detail[:MAX_DETAIL], evidence_at=utcnow(), **served)
        )
        with transaction(self._engine) as connection:
            return connection.execute(change).rowcount > 0

    def look_again(self, report_id: str, *, actor: str, reason: str) -> None:
        """Let the evidence of one report be looked for once more.

        Raises:
            NotFoundError: The report is unknown.
            IllegalTransitionError: It has evidence already, or none is looked for in its state.
        """
        with transaction(self._engine) as connection:
            row = report_row(connection, report_id, lock=True)
            if row.evidence not in {Evidence.CONTRADICTED, Evidence.CLAIMED}:
                raise IllegalTransitionError(f"report {report_id} is {row.evidence} already: {row.evidence_detail}")
            if row.state not in LOOKED_FOR:
                raise IllegalTransitionError(f"report {report_id} is {row.state}: no evidence is looked for")
            _forget(connection, report_id)
            record_audit(connection, actor=actor, action="evidence", subject=report_id, reason=reason)

    def counts(self) -> dict[Evidence, int]:
        """Reports that are queued, analysed or lessons, by evidence; a kind without reports is 0."""
        table = report_counts
        query = counted(table.c.evidence, table.c.state.in_(LOOKED_FOR))
        with reading(self._engine) as connection:
            found: dict[Evidence, int] = {row[0]: row[1] for row in connection.execute(query)}
        return {evidence: found.get(evidence, 0) for evidence in Evidence}

    def waiting(self) -> int:
        """The number of reports whose evidence was not looked for yet, at most `MAX_COUNTED`."""
        query = up_to(select(schema.reports.c.id).where(text(schema.WITHOUT_EVIDENCE)))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one()


def verified_at_birth(connection: Connection, principal: str, sent_ids: Sequence[str]) -> None:
    """Mark new reports whose answers erratad got itself."""
    table = schema.reports
    connection.execute(
        update(table)
        .where(table.c.principal == principal, table.c.sent_id.in_(sent_ids), table.c.evidence_at.is_(None))
        .values(evidence=Evidence.VERIFIED, evidence_detail=AT_BIRTH, evidence_at=utcnow())
    )


def verified_by_record(connection: Connection, report_id: str, detail: str) -> None:
    """Mark a new report whose conversation and answer came from a server's own record."""
    values = {"evidence": Evidence.VERIFIED, "evidence_detail": detail[:MAX_DETAIL], "evidence_at": utcnow()}
    connection.execute(update(schema.reports).where(schema.reports.c.id == report_id).values(**values))


def _next(principal: str, taken: Collection[str]) -> Select[object]:
    """The oldest waiting report of the first principal after this one."""
    table = schema.reports
    return (
        select(table)
        .where(text(schema.WITHOUT_EVIDENCE), table.c.principal > principal, table.c.id.not_in(taken))
        .order_by(table.c.principal, table.c.received_at, table.c.id)
        .limit(1)
    )


def _forget(connection: Connection, report_id: str) -> None:
    table = schema.reports
    nothing = {"evidence": Evidence.CLAIMED, "evidence_detail": None, "evidence_at": None}
    connection.execute(update(table).where(table.c.id == report_id).values(**nothing))
