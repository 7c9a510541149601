"""Deletes old reports that no run ever used, so that the database stays bounded whatever is sent.

Whatever a run trained on or measured stays, with its lineage. So does what a run may still use. Of the answers that old
runs measured, those to reports stay: they are archived with their reports.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, and_, exists, func, or_, select

from connectors.messages import EventType
from daemon.labels import Suite
from daemon.records import ReportState, RunState
from daemon.store import schema
from daemon.store.decision_table import forget
from daemon.store.duplicates import IN_PLAY, MAX_PARTS
from daemon.store.engine import reading, transaction
from daemon.store.erasures import erased_lessons
from daemon.store.leader_words import erase_leaders
from daemon.store.outbox import emit_about
from daemon.store.runs import REPORT_SUITES

PASSED_OVER = 20
"""A lesson that so many runs could have used, and did not, is unused."""
BATCH = 200
_STATES = (ReportState.QUARANTINED, ReportState.BURIED, ReportState.LESSON, ReportState.DUPLICATE)
_ENDED = (RunState.PROMOTED, RunState.REJECTED, RunState.FAILED)
_NOT_OF_REPORTS = tuple(suite.value for suite in Suite if suite not in REPORT_SUITES)


class Unused:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def remove(self, *, before: datetime, reason: str, limit: int = BATCH) -> int:
        """Delete up to `limit` unused reports that came before this time; returns their number.

        Reports that were set aside or could not be analysed, lessons that `PASSED_OVER` runs passed over, and
        duplicates that count for nothing. Their senders hear of it: event `report.buried`, if none came before.
        A message that comes again with the id of a deleted report is stored as a new one.
        """
        table = schema.reports
        query = select(table.c.id, table.c.state).where(_unused(before)).order_by(table.c.received_at, table.c.id)
        with reading(self._engine) as connection:  # a read first: it waits for no writer
            if connection.execute(query.limit(1)).first() is None:
                return 0
        with transaction(self._engine) as connection:
            found = connection.execute(query.limit(limit).with_for_update(skip_locked=True)).all()
            ids = [row.id for row in found]
            untold = [row.id for row in found if row.state in {ReportState.QUARANTINED, ReportState.LESSON}]
            emit_about(connection, EventType.REPORT_BURIED, untold, {"reason": reason})
            _delete(connection, ids)
        return len(ids)

    def forget_answers(self, *, before: datetime) -> int:
        """Delete the answers to probes and tasks of one run that ended before this time; returns their number.

        Those of a run whose adapter still has its files stay: it may go live again.
        """
        table, runs, adapters = schema.answers, schema.runs, schema.adapters
        with_files = select(adapters.c.run_id).where(
            adapters.c.run_id == runs.c.id, adapters.c.path.is_not(None), adapters.c.files_removed_at.is_(None)
        )
        forgotten = table.c.suite.in_(_NOT_OF_REPORTS)
        oldest = (
            select(runs.c.id)
            .where(
                runs.c.finished_at < before,
                ~exists(with_files),
                exists(select(table.c.run_id).where(table.c.run_id == runs.c.id, forgotten)),
            )
            .order_by(runs.c.id)
            .limit(1)
        )
        with reading(self._engine) as connection:
            run_id = connection.execute(oldest).scalar()
        if run_id is None:
            return 0
        with transaction(self._engine) as connection:
            return connection.execute(table.delete().where(table.c.run_id == run_id, forgotten)).rowcount


def _delete(connection: Connection, ids: list[str]) -> None:
    erase_leaders(connection, ids)
    forget(connection, ids)
    for table in (schema.left_out, schema.lessons):
        connection.execute(table.delete().where(table.c.report_id.in_(ids)))
    connection.execute(schema.reports.delete().where(schema.reports.c.id.in_(ids)))


def _unused(before: datetime) -> ColumnElement[bool]:
    table, items = schema.reports, schema.run_items
    copies = table.alias("copies")
    return and_(
        table.c.state.in_(_STATES),  # by the index on state and time
        table.c.received_at < before,
        or_(
            table.c.state.in_((ReportState.QUARANTINED, ReportState.BURIED)),
            _passed_over(table, before),
            _idle_duplicate(before),
        ),
        ~exists(select(items.c.report_id).where(items.c.report_id == table.c.id)),
        ~exists(select(copies.c.id).where(copies.c.duplicate_of == table.c.id)),
        ~exists(select(erased_lessons.c.report_id).where(erased_lessons.c.report_id == table.c.id)),
    )


def _passed_over(reports: FromClause, before: datetime) -> ColumnElement[bool]:
    """An old lesson that no person reviewed, that many runs did not use, and that leads no cluster of other reports."""
    lessons, runs, clusters, items = schema.lessons, schema.runs, schema.clusters, schema.run_items
    others = schema.reports.alias("others")
    later = select(func.count()).where(runs.c.created_at > lessons.c.created_at, runs.c.state.in_(_ENDED))
    unreviewed = select(lessons.c.report_id).where(
        lessons.c.report_id == reports.c.id,
        lessons.c.reviewed_at.is_(None),
        later.correlate(lessons).scalar_subquery() >= PASSED_OVER,
    )
    leads_others = select(clusters.c.id).where(
        clusters.c.leader_id == reports.c.id,
        exists(select(others.c.id).where(others.c.cluster_id == clusters.c.id, others.c.id != reports.c.id)),
    )
    used = select(items.c.report_id).where(items.c.report_id == reports.c.id)
    return and_(
        reports.c.state == ReportState.LESSON,
        reports.c.received_at < before,
        exists(unreviewed),
        ~exists(leads_others),
        ~exists(used),
    )


def _idle_duplicate(before: datetime) -> ColumnElement[bool]:
    """A duplicate of a report that is out of play or passed over, or one with enough newer ones of its principal."""
    table = schema.reports
    original, newer = table.alias("original"), table.alias("newer")
    in_play = select(original.c.id).where(
        original.c.id == table.c.duplicate_of,
        original.c.state.in_(IN_PLAY),
        ~_passed_over(original, before),
    )
    beyond = (
        select(newer.c.id)
        .where(
            newer.c.content_key == table.c.content_key,
            newer.c.duplicate_of == table.c.duplicate_of,
            newer.c.principal == table.c.principal,
            newer.c.received_at > table.c.received_at,
        )
        .correlate(table)
        .limit(1)
        .offset(MAX_PARTS - 1)
    )
    return and_(table.c.state == ReportState.DUPLICATE, or_(~exists(in_play), exists(beyond)))
