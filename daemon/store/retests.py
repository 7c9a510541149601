"""Reports that runs asked again, and the states that they get by it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, Engine, and_, or_, select, update

from connectors.messages import EventType
from daemon.records import ReportState, utcnow
from daemon.retest import Retest
from daemon.store import rows, schema
from daemon.store.candidates import TRAINABLE
from daemon.store.duplicates import batches, duplicates_of
from daemon.store.engine import reading
from daemon.store.outbox import emit_about
from daemon.transitions import REPORT_TRANSITIONS

EVENTS: Mapping[ReportState, EventType] = {
    ReportState.RESOLVED: EventType.REPORT_RESOLVED,
    ReportState.IMPROVED: EventType.REPORT_IMPROVED,
    ReportState.NOT_REPRODUCED: EventType.REPORT_NOT_REPRODUCED,
    ReportState.RECURRING: EventType.REPORT_RECURRING,
}
_SAID: Mapping[ReportState, str] = {
    ReportState.RESOLVED: "fixed in generation {}",
    ReportState.IMPROVED: "made less often, but not fixed, in generation {}",
    ReportState.NOT_REPRODUCED: "not reproduced: generation {} did not make the mistake again",
    ReportState.RECURRING: "not fixed in generation {}",
}


class Retests:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of_run(self, run_id: int) -> list[Retest]:
        with reading(self._engine) as connection:
            return _of_run(connection, run_id)

    def of_report(self, report_id: str) -> list[Retest]:
        """Of every run, newest first."""
        table = schema.retests
        query = select(table).where(table.c.report_id == report_id).order_by(table.c.run_id.desc())
        with reading(self._engine) as connection:
            return [rows.record(Retest, row) for row in connection.execute(query)]


def keep_retests(connection: Connection, retests: Sequence[Retest], *, live: int | None) -> None:
    """Store what a run found out, at its verdict. A report that `live` (a generation) answered well is put aside now.

    This holds whether the candidate goes live or not: there is nothing to fix.
    """
    if retests:
        connection.execute(schema.retests.insert(), [asdict(one) for one in retests])
    if live is not None:
        _mark_all(connection, [one for one in retests if one.outcome is ReportState.NOT_REPRODUCED], generation=live)


def settle(connection: Connection, run_id: int, *, generation: int) -> None:
    """Mark the reports of a run whose candidate goes live, by what the run found out."""
    found = [one for one in _of_run(connection, run_id) if one.outcome is not ReportState.NOT_REPRODUCED]
    _mark_all(connection, found, generation=generation)


def _of_run(connection: Connection, run_id: int) -> list[Retest]:
    table = schema.retests
    query = select(table).where(table.c.run_id == run_id).order_by(table.c.report_id)
    return [rows.record(Retest, row) for row in connection.execute(query)]


def _mark_all(connection: Connection, retests: Iterable[Retest], *, generation: int) -> None:
    alike: dict[tuple[ReportState, str], list[str]] = defaultdict(list)
    for one in retests:
        if one.outcome is not None:
            alike[one.outcome, one.counts].append(one.report_id)
    for (state, counts), report_ids in alike.items():
        mark_outcome(connection, report_ids, state, generation=generation, because=counts)


def mark_outcome(
    connection: Connection,
    report_ids: Iterable[str],
    state: ReportState,
    *,
    generation: int,
    because: str | None = None,
) -> int:
    """Give reports one of the states of `EVENTS`, and tell their senders. Others keep their state if they have left.

    Args:
        generation: The one that answers so.
        because: The counts of its answers, or another reason.

    Returns:
        The number of changed reports.
    """
    table = schema.reports
    before = [old for old in TRAINABLE if state in REPORT_TRANSITIONS[old]]
    changed = (
        connection.execute(
            update(table)
            .where(table.c.id.in_(list(report_ids)), table.c.state.in_(before))
            .values(state=state, state_reason=because, resolved_generation=generation, updated_at=utcnow())
            .returning(table.c.id)
        )
        .scalars()
        .all()
    )
    said = _SAID[state].format(generation)
    told = sorted([*changed, *duplicates_of(connection, changed)])
    data = {"generation": generation, "said": said if because is None else f"{said}: {because}"}
    emit_about(connection, EVENTS[state], told, data)
    return len(changed)


def undo_outcomes(connection: Connection, *, target: int, leaving: int) -> None:
    """What generation `leaving`, or one newer than `target`, was found to do does not hold after a rollback.

    Mistakes that it fixed recur. Those that it did not make may be there again, so the next run may look.
    """
    generation = schema.reports.c.resolved_generation
    _undo(connection, or_(generation == leaving, generation > target), leaving=leaving)


def undo_lost(connection: Connection, report_ids: Collection[str], *, live: int) -> None:
    """The same for reports that were archived at a rollback: those that a newer generation than `live` fixed."""
    table = schema.reports
    for some in batches(sorted(report_ids)):
        of_newer = select(table.c.resolved_generation).where(table.c.id.in_(some), table.c.resolved_generation > live)
        for generation in connection.execute(of_newer.distinct()).scalars().all():
            _undo(connection, and_(table.c.id.in_(some), table.c.resolved_generation == generation), leaving=generation)


def _undo(connection: Connection, lost: ColumnElement[bool], *, leaving: int) -> None:
    table = schema.reports
    by_lost = select(table.c.id).where(lost).order_by(table.c.id)
    better = by_lost.where(table.c.state.in_([ReportState.RESOLVED, ReportState.IMPROVED]))
    why = f"generation {leaving} is no longer live"
    fixed = connection.execute(better).scalars().all()
    mark_outcome(connection, fixed, ReportState.RECURRING, generation=leaving, because=why)
    unmade = connection.execute(by_lost.where(table.c.state == ReportState.NOT_REPRODUCED)).scalars().all()
    try_again(connection, unmade, because=why)


def try_again(connection: Connection, report_ids: Collection[str], *, because: str) -> None:
    """Let the next run learn from these of the reports that are not reproduced."""
    table = schema.reports
    for some in batches(list(report_ids)):
        connection.execute(
            update(table)
            .where(table.c.id.in_(some), table.c.state == ReportState.NOT_REPRODUCED)
            .values(state=ReportState.LESSON, state_reason=because, resolved_generation=None, updated_at=utcnow())
        )
