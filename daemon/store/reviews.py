"""People's decisions on reports and analyses: accept, correct, reject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, SelectBase, and_, func, select, union_all, update

from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.parts import Analysis
from daemon.records import CorrectionSource, Lesson, Report, ReportState, utcnow
from daemon.store import rows, schema
from daemon.store.audit import record_audit
from daemon.store.counts import report_counts, up_to
from daemon.store.decision_table import Decision, decisions, forget, remember
from daemon.store.duplicates import WITH_ANALYSIS, duplicates_of, with_others
from daemon.store.engine import reading, transaction
from daemon.store.reports import emit_buried, move, report_row

UNDO_FOR = timedelta(hours=1)
_REPLACED = ("analysis", "analyses", "correction", "correction_source", "reviewed_by", "reviewed_at")
"""The columns of a lesson that a review changes."""
MAX_SET_ASIDE = 100
MAX_SET_ASIDE_PER_REPORTER = 3
"""Analyses with something set aside that come before the others. Those beyond are reviewed like the others."""


MAX_WAITING = 1_000
"""More items that wait are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The number of items that wait for a review."""

    quarantined: int
    set_aside: int
    analyses: int

    @property
    def total(self) -> int:
        return self.quarantined + self.set_aside + self.analyses


class Reviews:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def waiting(self) -> Waiting:
        """Each number is at most `MAX_WAITING`."""
        with reading(self._engine) as connection:
            found = _count_unreviewed(connection)
            set_aside = connection.execute(up_to(_set_aside(), MAX_WAITING)).scalar_one()
            quarantined = up_to(select(schema.reports.c.id).where(_quarantined()), MAX_WAITING)
            return Waiting(
                quarantined=connection.execute(quarantined).scalar_one(),
                set_aside=set_aside,
                analyses=found - set_aside,
            )

    def quarantined(self, *, limit: int) -> list[Report]:
        """Oldest first."""
        table = schema.reports
        query = select(table).where(_quarantined()).order_by(table.c.received_at, table.c.id).limit(limit)
        with reading(self._engine) as connection:
            return [rows.report(row) for row in connection.execute(query)]

    def set_aside(self, *, limit: int) -> list[tuple[Report, Lesson]]:
        """Analyses without a review whose reports have a correction or checks that are set aside, heaviest first."""
        first = select(_set_aside().subquery().c.report_id)
        return self._analyses(first, _HEAVIEST_FIRST, limit)

    def analyses(self, *, limit: int) -> list[tuple[Report, Lesson]]:
        """The other analyses without a review, those of the oldest reports first."""
        table = schema.reports
        first = select(_set_aside().subquery().c.report_id)
        oldest = (table.c.received_at, table.c.id)
        # each state by itself: the index of the state and the time has them in order
        some = [
            select(table.c.id)
            .join(schema.lessons)
            .where(_unreviewed(of=[state]), table.c.id.not_in(first))
            .order_by(*oldest)
            .limit(limit)
            .subquery()
            for state in WITH_ANALYSIS
        ]
        return self._analyses(union_all(*(select(one.c.id) for one in some)), oldest, limit)

    def _analyses(
        self, ids: SelectBase, order: tuple[ColumnElement[Any], ...], limit: int
    ) -> list[tuple[Report, Lesson]]:
        table, lessons = schema.reports, schema.lessons
        query = (
            select(table, lessons)
            .join(lessons, lessons.c.report_id == table.c.id)
            .where(table.c.id.in_(ids))
            .order_by(*order)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            found = connection.execute(query).all()
            reports = with_others(connection, found)
        return [(report, rows.lesson(row)) for report, row in zip(reports, found, strict=True)]

    def accept(self, report_id: str, *, actor: str, reason: str) -> ReportState:
        """Release a quarantined report into the queue, or approve an analysis; returns the report's state.

        Raises:
            NotFoundError: The report is unknown.
            IllegalTransitionError: Nothing about it waits for a review.
        """
        with transaction(self._engine) as connection:
            before, at = _before(connection, report_id), utcnow()
            state = ReportState(before["state"])
            if state == ReportState.QUARANTINED:
                state = ReportState.QUEUED
                move(connection, report_id, state, reason, attempts=0, next_attempt_at=None)
            else:
                _sign(connection, report_id, actor, at)
            remember(connection, actor, report_id, "accept", before, after=state, at=at)
            record_audit(connection, actor=actor, action="accept", subject=report_id, reason=reason)
        return state

    def correct(self, report_id: str, *, analysis: str, correction: str | None, actor: str, reason: str) -> None:
        """Replace the analysis and the corrected answer by a person's text (`correction` None: no corrected answer).

        Raises:
            NotFoundError: The report is unknown.
            IllegalTransitionError: It has no analysis that a run may learn from.
        """
        with transaction(self._engine) as connection:
            before, at = _before(connection, report_id), utcnow()
            if before["state"] == ReportState.QUARANTINED:
                raise IllegalTransitionError(f"report {report_id} is quarantined: accept it first, then it is analysed")
            old = _lesson(connection, report_id)
            source = old.correction_source if correction == old.correction else CorrectionSource.REVIEWER
            _sign(
                connection,
                report_id,
                actor,
                at,
                analysis=analysis,
                analyses=rows.analyses_value(_replaced(old, analysis, actor)),
                correction=correction,
                correction_source=None if correction is None else source,
            )
            remember(connection, actor, report_id, "correct", before, after=before["state"], at=at)
            record_audit(connection, actor=actor, action="correct", subject=report_id, reason=reason)

    def reject(self, report_id: str, *, actor: str, reason: str) -> None:
        """Bury a quarantined report, or a report with an unsuitable analysis. `requeue` puts it back.

        Raises:
            NotFoundError: The report is unknown.
            IllegalTransitionError: Nothing about it waits for a review.
        """
        with transaction(self._engine) as connection:
            before = _before(connection, report_id)
            move(connection, report_id, ReportState.BURIED, reason)
            remember(connection, actor, report_id, "reject", before, after=ReportState.BURIED, at=utcnow())
            emit_buried(connection, report_id, reason)
            record_audit(connection, actor=actor, action="reject", subject=report_id, reason=reason)

    def last(self, actor: str) -> Decision | None:
        """The person's last decision that can still be undone, if nothing has happened since."""
        with reading(self._engine) as connection:
            row = connection.execute(_undoable(actor)).one_or_none()
        return None if row is None else rows.record(Decision, row)

    def undo(self, *, actor: str) -> Decision:
        """Take back the person's last decision. The events and the entries in the audit log that it made stay.

        Raises:
            NotFoundError: There is none, or it is too long ago.
            IllegalTransitionError: The report has changed since.
        """
        with transaction(self._engine) as connection:
            row = connection.execute(_undoable(actor).with_for_update()).one_or_none()
            if row is None:
                raise NotFoundError(f"{actor} has decided nothing in the last hour that could be undone")
            _is_as_decided(connection, row)
            before = row.before
            if before["state"] != row.after:
                move(connection, row.report_id, ReportState(before["state"]), before["state_reason"])
            if before["lesson"] is not None:
                _restore(connection, row.report_id, before["lesson"])
            forget(connection, [row.report_id])
            record_audit(connection, actor=actor, action="undo", subject=row.report_id, reason=f"undid: {row.decision}")
        return rows.record(Decision, row)


_OLDEST_FIRST: tuple[ColumnElement[Any], ...] = (schema.lessons.c.created_at, schema.lessons.c.report_id)
_HEAVIEST_FIRST = (schema.lessons.c.review_weight.desc(), *_OLDEST_FIRST)


def _quarantined() -> ColumnElement[bool]:
    return schema.reports.c.state == ReportState.QUARANTINED


def _unreviewed(
    state: ColumnElement[Any] = schema.reports.c.state, of: Sequence[ReportState] = WITH_ANALYSIS
) -> ColumnElement[bool]:
    return and_(
        state.in_(of),
        schema.lessons.c.report_id == schema.reports.c.id,
        schema.lessons.c.reviewed_at.is_(None),
    )


def _count_unreviewed(connection: Connection) -> int:
    """At most `MAX_WAITING`. Where kept counts show that there are more, no report is looked at."""
    lessons, counts = schema.lessons, report_counts.c
    kept = select(func.coalesce(func.sum(counts.change), 0)).where(counts.state.in_(WITH_ANALYSIS))
    more = connection.execute(kept).scalar_one() - MAX_WAITING
    if more >= 0:
        reviewed = select(lessons.c.report_id).where(lessons.c.reviewed_at.is_not(None))
        if connection.execute(up_to(reviewed, more + 1)).scalar_one() <= more:
            return MAX_WAITING
    unreviewed = select(lessons.c.report_id).select_from(schema.reports).join(lessons).where(_unreviewed())
    return connection.execute(up_to(unreviewed, MAX_WAITING)).scalar_one()


def _set_aside() -> Select[Any]:
    """The heaviest analyses with something set aside, by turns of their principals and a few per reporter.

    So nobody fills the list, not even under many names.
    """
    lessons, origin = schema.lessons, schema.reports.alias("origin")
    reporter = (origin.c.principal, origin.c.reporter)
    nth = func.row_number().over(partition_by=reporter, order_by=_HEAVIEST_FIRST).label("nth")
    ranked = (
        select(lessons.c.report_id, lessons.c.review_weight, lessons.c.created_at, origin.c.principal, nth)
        .join(schema.reports, schema.reports.c.id == lessons.c.report_id)
        .join(origin, origin.c.id == lessons.c.set_aside_from)
        # few lessons have a weight, nearly all reports a state: SQLite must not begin with the index of the state
        .where(_unreviewed(schema.reports.c.state.concat("")), lessons.c.review_weight.is_not(None))
        .subquery()
    )
    heaviest = (ranked.c.review_weight.desc(), ranked.c.created_at, ranked.c.report_id)
    turn = func.row_number().over(partition_by=ranked.c.principal, order_by=heaviest).label("turn")
    return _in_turn(select(*ranked.c, turn).where(ranked.c.nth <= MAX_SET_ASIDE_PER_REPORTER))


def _in_turn(found: Select[Any]) -> Select[Any]:
    """The heaviest of each principal, then the second of each, and so on: those that fit, heaviest first."""
    by_turn = found.subquery()
    heaviest = (by_turn.c.review_weight.desc(), by_turn.c.created_at, by_turn.c.report_id)
    listed = select(*by_turn.c).order_by(by_turn.c.turn, *heaviest).limit(MAX_SET_ASIDE).subquery()
    return select(listed.c.report_id).order_by(listed.c.review_weight.desc(), listed.c.created_at, listed.c.report_id)


def _before(connection: Connection, report_id: str) -> dict[str, Any]:
    """What a decision replaces.

    Raises:
        IllegalTransitionError: Nothing about the report waits for a review.
    """
    report, lessons = report_row(connection, report_id, lock=True), schema.lessons
    if report.state not in {ReportState.QUARANTINED, *WITH_ANALYSIS}:
        raise IllegalTransitionError(
            f"report {report_id} is {report.state}: only a quarantined one, or one with an analysis to learn from, is "
            "reviewed"
        )
    columns = [lessons.c[name] for name in _REPLACED]
    row = connection.execute(select(*columns).where(lessons.c.report_id == report_id)).one_or_none()
    lesson = None if row is None else dict(zip(_REPLACED, row, strict=True))
    if lesson is not None and lesson["reviewed_at"] is not None:
        lesson["reviewed_at"] = lesson["reviewed_at"].isoformat()
    has_copies = bool(duplicates_of(connection, [report_id]))
    return {"state": report.state, "state_reason": report.state_reason, "lesson": lesson, "has_copies": has_copies}


def _undoable(actor: str) -> Select[Any]:
    """The person's last decision, if it is not too long ago."""
    return select(decisions).where(decisions.c.actor == actor, decisions.c.at > utcnow() - UNDO_FOR)


def _is_as_decided(connection: Connection, decided: Any) -> None:
    """Raises IllegalTransitionError if the report has changed since the decision."""
    report = report_row(connection, decided.report_id, lock=True)
    if report.state != decided.after:
        raise IllegalTransitionError(
            f"report {report.id} is {report.state} by now: to {decided.decision} it cannot be undone any more"
        )
    if decided.decision == "reject" and decided.before["has_copies"]:
        raise IllegalTransitionError(
            f"another report of the same answer stands for {report.id} since: `erratad requeue {report.id}` analyses it"
        )
    if decided.decision != "reject" and decided.before["state"] == decided.after:
        lesson = _lesson(connection, report.id)
        if (lesson.reviewed_by, lesson.reviewed_at) != (decided.actor, decided.at):
            raise IllegalTransitionError(f"the analysis of report {report.id} has changed since")


def _restore(connection: Connection, report_id: str, lesson: dict[str, Any]) -> None:
    at = lesson["reviewed_at"]
    values = {**lesson, "reviewed_at": None if at is None else datetime.fromisoformat(at)}
    table = schema.lessons
    connection.execute(update(table).where(table.c.report_id == report_id).values(**values))


def _lesson(connection: Connection, report_id: str) -> Lesson:
    row = connection.execute(select(schema.lessons).where(schema.lessons.c.report_id == report_id)).one()
    return rows.lesson(row)


def _replaced(old: Lesson, text: str, actor: str) -> tuple[Analysis, ...]:
    """All analyses, of which only the person's is current."""
    if text == old.analysis:
        return old.analyses
    own = Analysis(text=text, analyst=f"reviewer:{actor}"[:200], template="", at=utcnow())
    return (*(replace(one, current=False) for one in rows.history(old)), own)


def _sign(connection: Connection, report_id: str, actor: str, at: datetime, **changes: object) -> None:
    table = schema.lessons
    connection.execute(
        update(table).where(table.c.report_id == report_id).values(reviewed_by=actor, reviewed_at=at, **changes)
    )
