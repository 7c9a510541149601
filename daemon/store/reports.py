"""Reports and lessons: intake, the reflection queue with leases, clusters, and what came of each report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Engine, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from connectors.messages import EventType, FlaggedResponse
from daemon.errors import IllegalTransitionError, LeaseLostError, NotFoundError
from daemon.records import Cluster, CorrectionSource, Lesson, Report, ReportState, Source, Split, utcnow
from daemon.store import schema
from daemon.store.control import emit, record_audit
from daemon.store.engine import transaction

TRAINABLE = (ReportState.LESSON, ReportState.RECURRING, ReportState.RESOLVED)


class Added(StrEnum):
    """What became of one message that was handed to `Reports.add`."""

    STORED = "stored"
    REDELIVERED = "redelivered"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A report that this worker holds until the lease ends."""

    report: Report
    owner: str


class Reports:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, batch: Sequence[tuple[FlaggedResponse, Source]], *, reporter_cap: int) -> list[Added]:
        """Store a batch in one transaction; one outcome per message, in order.

        A message whose id is already stored is `redelivered` (same content) or a `conflict` (other content). A report of
        an answer that another report already flagged is stored as `duplicate`; one above `reporter_cap` reports of its
        reporter in 24 hours as `quarantined`.
        """
        with transaction(self._engine) as connection:
            return [self._add_one(connection, flagged, source, reporter_cap) for flagged, source in batch]

    def _add_one(self, connection: Connection, flagged: FlaggedResponse, source: Source, reporter_cap: int) -> Added:
        now = utcnow()
        table = schema.reports
        fingerprint, content_key = flagged.fingerprint(), flagged.content_key()
        known = connection.execute(select(table.c.fingerprint).where(table.c.id == flagged.id)).scalar()
        if known is not None:
            return Added.REDELIVERED if known == fingerprint else Added.CONFLICT
        original = connection.execute(
            select(table.c.id)
            .where(table.c.content_key == content_key, table.c.duplicate_of.is_(None), table.c.state != "erased")
            .limit(1)
        ).scalar()
        recent = connection.execute(
            select(func.count())
            .select_from(table)
            .where(table.c.reporter == flagged.reporter, table.c.received_at > now - timedelta(days=1))
        ).scalar_one()
        state, outcome, reason = ReportState.QUEUED, Added.STORED, None
        if original is not None:
            state, outcome, reason = ReportState.DUPLICATE, Added.DUPLICATE, f"the same answer is report {original}"
        elif recent >= reporter_cap:
            state, outcome = ReportState.QUARANTINED, Added.QUARANTINED
            reason = f"reporter {flagged.reporter} sent more than {reporter_cap} reports in 24 hours"
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        inserted = connection.execute(
            insert(table)
            .values(
                id=flagged.id,
                state=state,
                fingerprint=fingerprint,
                content_key=content_key,
                category=flagged.category,
                reporter=flagged.reporter,
                tenant=flagged.tenant,
                model=flagged.model,
                flagged=flagged.model_dump(mode="json", exclude_none=True),
                channel=source.channel,
                kafka_partition=source.partition,
                kafka_offset=source.offset,
                received_at=now,
                updated_at=now,
                state_reason=reason,
                duplicate_of=original,
            )
            .on_conflict_do_nothing(index_elements=["id"])
        )
        # another replica stored the same id between our look and our insert
        return outcome if inserted.rowcount else Added.REDELIVERED

    def get(self, report_id: str) -> Report:
        with transaction(self._engine) as connection:
            return _report(_row(connection, report_id))

    def find(
        self,
        *,
        state: ReportState | None = None,
        category: str | None = None,
        search: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Report]:
        """Newest first."""
        table = schema.reports
        query = select(table).order_by(table.c.received_at.desc(), table.c.id).limit(limit).offset(offset)
        if state is not None:
            query = query.where(table.c.state == state)
        if category is not None:
            query = query.where(table.c.category == category)
        if search:
            query = query.where(table.c.id.contains(search, autoescape=True))
        with transaction(self._engine) as connection:
            return [_report(row) for row in connection.execute(query)]

    def counts(self) -> dict[ReportState, int]:
        """Reports per state; states without reports are 0."""
        table = schema.reports
        with transaction(self._engine) as connection:
            rows = connection.execute(select(table.c.state, func.count()).group_by(table.c.state)).all()
        return {state: dict((row[0], row[1]) for row in rows).get(state.value, 0) for state in ReportState}

    def oldest_queued_at(self) -> datetime | None:
        table = schema.reports
        query = select(func.min(table.c.received_at)).where(table.c.state.in_(["queued", "reflecting"]))
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar()

    # --- the reflection queue ---

    def claim(self, *, owner: str, limit: int, lease_s: float) -> list[Claim]:
        """Take up to `limit` reports that wait, or whose worker's lease ran out; oldest first."""
        now = utcnow()
        table = schema.reports
        waiting = and_(
            table.c.state == ReportState.QUEUED,
            or_(table.c.next_attempt_at.is_(None), table.c.next_attempt_at <= now),
        )
        abandoned = and_(table.c.state == ReportState.REFLECTING, table.c.lease_until <= now)
        query = (
            select(table.c.id)
            .where(or_(waiting, abandoned))
            .order_by(table.c.received_at, table.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with transaction(self._engine) as connection:
            ids = connection.execute(query).scalars().all()
            if not ids:
                return []
            connection.execute(
                update(table)
                .where(table.c.id.in_(ids))
                .values(
                    state=ReportState.REFLECTING,
                    lease_owner=owner,
                    lease_until=now + timedelta(seconds=lease_s),
                    attempts=table.c.attempts + 1,
                    updated_at=now,
                )
            )
            rows = connection.execute(
                select(table).where(table.c.id.in_(ids)).order_by(table.c.received_at, table.c.id)
            ).all()
        return [Claim(report=_report(row), owner=owner) for row in rows]

    def complete(self, claim: Claim, lesson: Lesson) -> None:
        """Store the lesson and move the report on.

        Raises:
            LeaseLostError: when another worker has taken the report over.
        """
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.LESSON, None)
            connection.execute(
                schema.lessons.insert().values(
                    report_id=lesson.report_id,
                    analysis=lesson.analysis,
                    analyst=lesson.analyst,
                    template=lesson.template,
                    correction=lesson.correction,
                    correction_source=lesson.correction_source,
                    created_at=lesson.created_at,
                )
            )
            emit(connection, EventType.LESSON_CREATED, lesson.report_id, {"analyst": lesson.analyst})

    def retry(self, claim: Claim, *, at: datetime, reason: str) -> None:
        """Put the report back; it is claimed again from `at` on."""
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.QUEUED, reason, next_attempt_at=at)

    def bury(self, claim: Claim, *, reason: str) -> None:
        """Give up on the report until an operator revives it."""
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.BURIED, reason)
            emit(connection, EventType.REPORT_BURIED, claim.report.id, {"reason": reason})

    def _leave_reflection(
        self,
        connection: Connection,
        claim: Claim,
        state: ReportState,
        reason: str | None,
        next_attempt_at: datetime | None = None,
    ) -> None:
        table = schema.reports
        changed = connection.execute(
            update(table)
            .where(
                table.c.id == claim.report.id,
                table.c.state == ReportState.REFLECTING,
                table.c.lease_owner == claim.owner,
                table.c.attempts == claim.report.attempts,
            )
            .values(
                state=state,
                state_reason=reason,
                next_attempt_at=next_attempt_at,
                lease_owner=None,
                lease_until=None,
                updated_at=utcnow(),
            )
        ).rowcount
        if not changed:
            raise LeaseLostError(f"report {claim.report.id}: the lease of {claim.owner} is over; the result is dropped")

    # --- operators ---

    def requeue(self, report_id: str, *, actor: str, reason: str) -> None:
        """Revive a buried report, or release a quarantined one, with a fresh count of attempts."""
        self._move(report_id, ReportState.QUEUED, "requeue", actor, reason, attempts=0, duplicate_of=None)

    def quarantine(self, report_id: str, *, actor: str, reason: str) -> None:
        self._move(report_id, ReportState.QUARANTINED, "quarantine", actor, reason, lease_owner=None, lease_until=None)

    def erase(self, report_id: str, *, actor: str, reason: str) -> None:
        """Remove a report's content for good (a person's right); its id and its lineage stay."""
        blank = {"lease_owner": None, "lease_until": None, "reporter": "erased", "tenant": None}
        with transaction(self._engine) as connection:
            row = _row(connection, report_id)
            flagged = {
                **row.flagged,
                "messages": [{"role": "user", "content": "[erased]"}],
                "response": "[erased]",
                "reason": "[erased]",
                "reporter": "erased",
                "metadata": {},
            }
            for key in ("correction", "checks", "tenant", "locale"):
                flagged.pop(key, None)
            self._move_in(connection, report_id, ReportState.ERASED, "erase", actor, reason, flagged=flagged, **blank)
            connection.execute(schema.lessons.delete().where(schema.lessons.c.report_id == report_id))
            connection.execute(
                update(schema.answers).where(schema.answers.c.item_id == report_id).values(text="[erased]")
            )

    def _move(self, report_id: str, state: ReportState, action: str, actor: str, reason: str, **values: Any) -> None:
        with transaction(self._engine) as connection:
            self._move_in(connection, report_id, state, action, actor, reason, **values)

    def _move_in(
        self,
        connection: Connection,
        report_id: str,
        state: ReportState,
        action: str,
        actor: str,
        reason: str,
        **values: Any,
    ) -> None:
        from daemon.records import REPORT_TRANSITIONS

        table = schema.reports
        current = ReportState(_row(connection, report_id).state)
        if state not in REPORT_TRANSITIONS[current]:
            raise IllegalTransitionError(f"report {report_id} is {current}: it cannot become {state}")
        connection.execute(
            update(table)
            .where(table.c.id == report_id)
            .values(state=state, state_reason=reason, updated_at=utcnow(), **values)
        )
        record_audit(connection, actor=actor, action=action, subject=report_id, reason=reason)

    # --- lessons, clusters, results ---

    def lesson(self, report_id: str) -> Lesson | None:
        query = select(schema.lessons).where(schema.lessons.c.report_id == report_id)
        with transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _lesson(row)

    def trainable(self, *, limit: int) -> list[tuple[Report, Lesson]]:
        """Reports with a lesson, those still unresolved first and newest first among them."""
        table = schema.reports
        query = (
            select(table, schema.lessons)
            .join(schema.lessons, schema.lessons.c.report_id == table.c.id)
            .where(table.c.state.in_(TRAINABLE))
            .order_by(table.c.state == ReportState.RESOLVED, table.c.received_at.desc(), table.c.id)
            .limit(limit)
        )
        with transaction(self._engine) as connection:
            return [(_report(row), _lesson(row)) for row in connection.execute(query)]

    def count_new_lessons(self) -> int:
        """Lessons that no run has measured to its end yet: what the schedule's threshold counts."""
        table = schema.reports
        used = (
            select(schema.run_items.c.report_id)
            .join(schema.runs, schema.runs.c.id == schema.run_items.c.run_id)
            .where(schema.runs.c.state != "failed")
        )
        query = (
            select(func.count())
            .select_from(table)
            .where(table.c.state.in_([ReportState.LESSON, ReportState.RECURRING]), table.c.id.not_in(used))
        )
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar_one()

    def clusters(self) -> list[Cluster]:
        with transaction(self._engine) as connection:
            rows = connection.execute(select(schema.clusters).order_by(schema.clusters.c.id)).all()
        return [
            Cluster(id=row.id, category=row.category, leader_text=row.leader_text, split=Split(row.split))
            for row in rows
        ]

    def new_cluster(self, *, report_id: str, category: str, leader_text: str, split: Split) -> Cluster:
        """Open a cluster with its first report, in one transaction."""
        with transaction(self._engine) as connection:
            cluster_id = connection.execute(
                schema.clusters.insert()
                .values(category=category, leader_text=leader_text, split=split)
                .returning(schema.clusters.c.id)
            ).scalar_one()
            self._join(connection, report_id, cluster_id)
        return Cluster(id=cluster_id, category=category, leader_text=leader_text, split=split)

    def join_cluster(self, report_id: str, cluster_id: int) -> None:
        with transaction(self._engine) as connection:
            self._join(connection, report_id, cluster_id)

    def _join(self, connection: Connection, report_id: str, cluster_id: int) -> None:
        table = schema.reports
        connection.execute(
            update(table).where(table.c.id == report_id, table.c.cluster_id.is_(None)).values(cluster_id=cluster_id)
        )

    def settle(self, report_ids: Iterable[str], state: ReportState, *, generation: int) -> int:
        """Mark reports as `resolved` or `recurring` under a generation; returns how many changed."""
        table = schema.reports
        event = EventType.REPORT_RESOLVED if state == ReportState.RESOLVED else EventType.REPORT_RECURRING
        changed = 0
        with transaction(self._engine) as connection:
            for report_id in report_ids:
                moved = connection.execute(
                    update(table)
                    .where(table.c.id == report_id, table.c.state.in_(TRAINABLE), table.c.state != state)
                    .values(state=state, resolved_generation=generation, updated_at=utcnow())
                ).rowcount
                if moved:
                    changed += 1
                    emit(connection, event, report_id, {"generation": generation})
        return changed


def _row(connection: Connection, report_id: str) -> Any:
    row = connection.execute(select(schema.reports).where(schema.reports.c.id == report_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no report {report_id!r}; `erratad reports` lists them")
    return row


def _report(row: Any) -> Report:
    return Report(
        id=row.id,
        state=ReportState(row.state),
        flagged=FlaggedResponse.model_validate(row.flagged),
        source=Source(channel=row.channel, partition=row.kafka_partition, offset=row.kafka_offset),
        received_at=row.received_at,
        updated_at=row.updated_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        state_reason=row.state_reason,
        duplicate_of=row.duplicate_of,
        cluster_id=row.cluster_id,
        resolved_generation=row.resolved_generation,
        lease_owner=row.lease_owner,
    )


def _lesson(row: Any) -> Lesson:
    return Lesson(
        report_id=row.report_id,
        analysis=row.analysis,
        analyst=row.analyst,
        template=row.template,
        correction=row.correction,
        correction_source=None if row.correction_source is None else CorrectionSource(row.correction_source),
        created_at=row.created_at,
    )
