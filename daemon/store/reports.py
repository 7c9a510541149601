"""Reports and lessons: intake, the reflection queue with leases, and the outcome of each report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, or_, select, text, update

from connectors.messages import EventType, FlaggedResponse
from daemon.categories import Kind
from daemon.errors import IllegalTransitionError, LeaseLostError
from daemon.labels import SignalState
from daemon.privacy.redact import Redactor
from daemon.records import INDUCED, MAX_NUMBER, AfterErasure, Lesson, Report, ReportState, Source, utcnow
from daemon.report_filter import ALL, ReportFilter
from daemon.store import rows, schema
from daemon.store.archive_tables import archive_files, archived, unknown
from daemon.store.audit import record_audit
from daemon.store.candidates import (
    NEVER,
    Tenants,
    a_candidate,
    candidates,
    newest,
    of_other_tenants,
    of_tenants,
    with_lesson,
)
from daemon.store.counts import MAX_COUNTED, counted, report_counts
from daemon.store.duplicates import duplicates_of, with_others
from daemon.store.engine import database_time, reading, transaction, upsert
from daemon.store.erasing import blank, erase_lesson, erase_quotes, quotes_of
from daemon.store.erasures import record_erasure
from daemon.store.intake import Added, Arrival, store_batch
from daemon.store.new_lessons import has, last_run_at, new_lessons
from daemon.store.outbox import emit_about
from daemon.store.quotas import LimitsOf, only_per_reporter
from daemon.store.search import count_of, every_category, hits, matching, matching_after
from daemon.store.signal_table import signals
from daemon.store.standing import came_in, hand_over
from daemon.transitions import REPORT_TRANSITIONS
from daemon.trust.policy import Enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A report held by this worker until the lease ends."""

    report: Report
    owner: str


class Reports:
    def __init__(self, engine: Engine, redactor: Redactor | None = None, *, tenants: Tenants | None = None) -> None:
        """`tenants`: the only ones whose reports may be trained on (`dataset.tenants`); None: all."""
        self._engine = engine
        self._redactor = redactor
        self._tenants = tenants

    def add(
        self,
        batch: Sequence[tuple[FlaggedResponse, Source]],
        *,
        limits: LimitsOf | None = None,
        reporter_cap: int = MAX_NUMBER,
    ) -> list[Added]:
        """Store a batch in one transaction, without personal data; one outcome per message, in order.

        A message with an id that its principal has sent already is `redelivered` (same content) or a `conflict` (other
        content). One without room in its principal's quota is `quota` and not stored. A report above its
        reporter's limit is stored as `quarantined`. Without `limits`, `reporter_cap` is the only limit. A report of an
        answer that is flagged already is stored as `duplicate` and adds its part (`Report.others`) to the report of
        that answer, which is analysed again if this adds something.
        """
        arrivals = Arrival.all_of(batch, self._redactor)
        with transaction(self._engine) as connection:
            return store_batch(connection, arrivals, limits=limits or only_per_reporter(reporter_cap))

    def get(self, report_id: str) -> Report:
        with reading(self._engine) as connection:
            return with_others(connection, [report_row(connection, report_id)])[0]

    def sent(self, principal: str, sent_id: str) -> Report:
        """The report that a principal sent under this id.

        Raises:
            NotFoundError: It sent none.
        """
        table = schema.reports
        with reading(self._engine) as connection:
            query = select(table).where(table.c.principal == principal, table.c.sent_id == sent_id)
            if (row := connection.execute(query).one_or_none()) is None:
                sent = {"principal": principal, "sent_id": sent_id}
                raise unknown(connection, sent, f"{principal} sent no report {sent_id!r}")
            return with_others(connection, [row])[0]

    def find(self, wanted: ReportFilter = ALL, *, limit: int = 50, offset: int = 0) -> list[Report]:
        """Without the parts of duplicates."""
        with reading(self._engine) as connection:
            return [
                rows.report(row) for row in connection.execute(matching(connection, wanted).limit(limit).offset(offset))
            ]

    def count(self, wanted: ReportFilter = ALL) -> int:
        """The number of all reports, or of a state; else at most `MAX_COUNTED`, of a search at most `MAX_FOUND`."""
        if set(wanted.query) <= {"state", "sort"}:
            counts = self.counts()
            return sum(number for state, number in counts.items() if wanted.state in {None, state})
        with reading(self._engine) as connection:
            return connection.execute(count_of(connection, wanted)).scalar_one()

    def batches(self, wanted: ReportFilter = ALL, size: int = 500, end: Report | None = None) -> Iterator[list[Report]]:
        """All (those after `end`), newest first, without parts of duplicates; a transaction a batch."""
        while True:
            with reading(self._engine) as connection:
                found = connection.execute(matching_after(connection, wanted, end).limit(size)).all()
            batch = [rows.report(row) for row in found]
            yield batch
            if len(batch) < size:
                return
            end = batch[-1]

    def counts(self) -> dict[ReportState, int]:
        """Reports per state; states without reports are 0."""
        with reading(self._engine) as connection:
            counts = {row[0]: row[1] for row in connection.execute(counted(report_counts.c.state))}
        return {state: counts.get(state, 0) for state in ReportState}

    def categories(self) -> list[str]:
        """The categories of all stored reports, guessed ones too, in alphabetical order."""
        with reading(self._engine) as connection:
            return [*connection.execute(every_category()).scalars()]

    def partitions_of(self, channel: str) -> frozenset[int]:
        """The partitions of a topic from which messages are stored or archived."""
        by_table = (select(one.c.kafka_partition).where(one.c.channel == channel) for one in (schema.reports, signals))
        with reading(self._engine) as connection:
            files = connection.execute(select(archive_files.c.partitions)).scalars()
            moved = {one for places in files for topic, one in places if topic == channel}
            return frozenset(moved).union(*(connection.execute(one.distinct()).scalars() for one in by_table))

    def oldest_queued_at(self) -> datetime | None:
        query = select(func.min(schema.reports.c.received_at)).where(text(schema.IN_QUEUE))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar()

    def last_received_at(self) -> datetime | None:
        """When the latest report came that erratad did not induce itself."""
        at = schema.reports.c.received_at
        query = select(at).where(schema.reports.c.principal != INDUCED).order_by(at.desc()).limit(1)
        with reading(self._engine) as connection:
            return connection.execute(query).scalar()

    def claim(self, *, owner: str, limit: int, lease_s: float, enough: Enough | None = None) -> list[Claim]:
        """Claim up to `limit` reports that wait or whose lease expired; oldest first.

        `enough`: what a report needs to be analysed; None: nothing.
        """
        with reading(self._engine) as connection:  # a read first, so that an idle worker never waits for a writer
            if connection.execute(_claimable(database_time(connection), enough).limit(1)).first() is None:
                return []
        table = schema.reports
        with transaction(self._engine) as connection:
            now = database_time(connection)
            # skip_locked: workers neither wait for each other nor claim the same report
            query = _claimable(now, enough).limit(limit).with_for_update(skip_locked=True)
            ids = connection.execute(query).scalars().all()
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
            claimed = connection.execute(
                select(table).where(table.c.id.in_(ids)).order_by(table.c.received_at, table.c.id)
            ).all()
            return [Claim(report=report, owner=owner) for report in with_others(connection, claimed)]

    def complete(self, claim: Claim, lesson: Lesson) -> None:
        """Store the lesson and move the report on.

        Raises:
            LeaseLostError: Another worker has taken over the report.
        """
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.LESSON, None)
            # a report quarantined after its lesson and then released already has a lesson
            upsert(connection, schema.lessons, ["report_id"], rows.lesson_values(lesson))
            emit_about(connection, EventType.LESSON_CREATED, [lesson.report_id], {"analyst": lesson.analyst})
            _came_meanwhile(connection, claim)

    def guess(self, claim: Claim, kind: Kind, *, by: str) -> None:
        """Store the guessed kind of a report that names no category, and put the report back: the attempt is free.

        Raises:
            LeaseLostError: Another worker has taken over the report.
        """
        table, values = schema.reports, {"guessed_kind": kind, "guessed_by": by}
        with transaction(self._engine) as connection:
            attempts = claim.report.attempts - 1
            self._leave_reflection(connection, claim, ReportState.QUEUED, None, attempts=attempts)
            connection.execute(update(table).where(table.c.id == claim.report.id).values(values))
            _came_meanwhile(connection, claim)

    def retry(self, claim: Claim, *, at: datetime, reason: str, counted: bool = True) -> None:
        """Put the report back into the queue until `at`. Not `counted`: the attempt does not count."""
        attempts = claim.report.attempts if counted else claim.report.attempts - 1
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.QUEUED, reason, next_attempt_at=at, attempts=attempts)

    def bury(self, claim: Claim, *, reason: str) -> None:
        """Give up the report until an operator requeues it."""
        with transaction(self._engine) as connection:
            self._leave_reflection(connection, claim, ReportState.BURIED, reason)
            hand_over(connection, claim.report.id)
            emit_buried(connection, claim.report.id, reason)

    def _leave_reflection(
        self,
        connection: Connection,
        claim: Claim,
        state: ReportState,
        reason: str | None,
        *,
        next_attempt_at: datetime | None = None,
        attempts: int | None = None,
    ) -> None:
        table = schema.reports
        changed = connection.execute(
            update(table)
            .where(
                table.c.id == claim.report.id,
                table.c.state == ReportState.REFLECTING,
                table.c.lease_owner == claim.owner,
                table.c.updated_at == claim.report.updated_at,  # only this worker's own claim, not a later one
            )
            .values(
                state=state,
                state_reason=reason,
                next_attempt_at=next_attempt_at,
                attempts=claim.report.attempts if attempts is None else attempts,
                lease_owner=None,
                lease_until=None,
                updated_at=utcnow(),
            )
        ).rowcount
        if not changed:
            raise LeaseLostError(f"report {claim.report.id}: the lease of {claim.owner} is over; the result is dropped")

    def requeue(self, report_id: str, *, actor: str, reason: str) -> None:
        """Revive a buried report, or release a quarantined or duplicate one, with a fresh count of attempts."""
        with transaction(self._engine) as connection:
            move(connection, report_id, ReportState.QUEUED, reason, attempts=0, next_attempt_at=None, duplicate_of=None)
            record_audit(connection, actor=actor, action="requeue", subject=report_id, reason=reason)

    def erase(self, report_id: str, *, actor: str, reason: str, after: AfterErasure = AfterErasure.KEEP) -> list[str]:
        """Erase a report's content from the database (a person's right). Its id and its lineage stay.

        Other reports of the same answer stay: the oldest of them stands for the answer then. What a duplicate added to
        the analysis of its answer goes with it. Texts of operators and servers lose what they quote.

        Args:
            after: What becomes of adapters that were trained on it; see `Erasures.withdrawn`.

        Returns:
            The ids of the reports whose lesson held its text: its own, and that of the report it is a duplicate of.
        """
        with transaction(self._engine) as connection:
            row = report_row(connection, report_id, lock=True)
            quotes = quotes_of(connection, row)
            touched = erase_lesson(connection, row, is_duplicate=row.state == ReportState.DUPLICATE)
            move(connection, report_id, ReportState.ERASED, quotes.close(reason), **blank(row))
            record_audit(connection, actor=actor, action="erase", subject=report_id, reason=reason)
            erase_quotes(connection, row, quotes)
            record_erasure(connection, report_id, touched, actor=actor, after=after)
        return touched

    def same_answer(self, report_id: str) -> list[str]:
        """The other reports, and thumbs up, of the same conversation and answer that are not erased."""
        table = schema.reports
        key = select(table.c.content_key).where(table.c.id == report_id).scalar_subquery()
        query = select(table.c.id).where(
            table.c.content_key == key, table.c.id != report_id, table.c.state != ReportState.ERASED
        )
        moved = select(archived.c.id).where(archived.c.content_key == key, archived.c.id != report_id)
        liked = select(signals.c.id).where(signals.c.content_key == key, signals.c.state != SignalState.ERASED)
        with reading(self._engine) as connection:
            return sorted(one for ask in (query, moved, liked) for one in connection.execute(ask).scalars())

    def others_with(self, said: str, report_id: str) -> list[str]:
        """Other reports with this text anywhere in their message; at most five."""
        with reading(self._engine) as connection:
            return sorted(connection.execute(hits(connection, said, schema.reports.c.id != report_id)).scalars())[:5]

    def lesson(self, report_id: str) -> Lesson | None:
        query = select(schema.lessons).where(schema.lessons.c.report_id == report_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else rows.lesson(row)

    def lessons(self, *, limit: int) -> list[Lesson]:
        """Lessons that a run may use: those of unresolved reports first, then newest first."""
        with reading(self._engine) as connection:
            return [rows.lesson(row) for row in newest(connection, limit=limit, tenants=self._tenants)]

    def trainable(self, *, limit: int, per_reporter: int | None = None) -> list[tuple[Report, Lesson]]:
        """Reports with a lesson that a run may use: unresolved ones first, then newest first.

        Of more than `limit`, each principal has its share, and each reporter in it, at most `per_reporter`.
        """
        with reading(self._engine) as connection:
            found = candidates(connection, limit=limit, per_reporter=per_reporter or MAX_NUMBER, tenants=self._tenants)
            reports = with_others(connection, found)
        return [(report, rows.lesson(row)) for report, row in zip(reports, found, strict=True)]

    def has_trainable(self) -> bool:
        """Whether there is a report with a lesson that a run may use."""
        with reading(self._engine) as connection:
            return connection.execute(a_candidate(self._tenants)).first() is not None

    def count_not_trainable(self) -> int:
        """The number of reports with a lesson that can never be trained on, such as one about an image."""
        return self._count(NEVER.is_not(None), of_tenants(self._tenants))

    def count_of_other_tenants(self) -> int:
        """The number of reports with a lesson that may not be trained on here, because of their tenant."""
        return 0 if self._tenants is None else self._count(of_other_tenants(self._tenants))

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        with reading(self._engine) as connection:
            return connection.execute(with_lesson(*conditions)).scalar_one()

    def count_new_lessons(self, enough: Enough | None = None, *, at_most: int = MAX_COUNTED) -> int:
        """The number of lessons since the start of the last run that did not fail, at most `at_most`.

        For the schedule's threshold: lessons that this run left out (by a cap, for example) do not count again, else it
        would start run after run. `enough`: what a lesson needs for a run; None: nothing.
        """
        with reading(self._engine) as connection:
            last_run = connection.execute(last_run_at()).scalar()
            return connection.execute(new_lessons(enough, self._tenants, last_run, at_most=at_most)).scalar_one()


def _came_meanwhile(connection: Connection, claim: Claim) -> None:
    """Consider the duplicates that came during the attempt."""
    seen = {part.report_id for part in claim.report.others}
    late = [one for one in duplicates_of(connection, [claim.report.id]) if one not in seen]
    came_in(connection, {claim.report.id: late} if late else {})


def emit_buried(connection: Connection, report_id: str, reason: str) -> None:
    """Tell the reporter, and the reporters of its duplicates, that the report is given up."""
    told = [report_id, *duplicates_of(connection, [report_id])]
    # an event leaves erratad, where no erasure reaches it
    said = quotes_of(connection, report_row(connection, report_id)).without(reason)
    emit_about(connection, EventType.REPORT_BURIED, told, {"reason": said})


def move(connection: Connection, report_id: str, state: ReportState, reason: str | None, **values: Any) -> None:
    """Change a report's state. Of one that is put aside, another report of its answer takes the place."""
    current: ReportState = report_row(connection, report_id, lock=True).state
    if state not in REPORT_TRANSITIONS[current]:
        raise IllegalTransitionError(f"report {report_id} is {current}: it cannot become {state}")
    connection.execute(
        update(schema.reports)
        .where(schema.reports.c.id == report_id)
        .values(state=state, state_reason=reason, updated_at=utcnow(), **values)
    )
    if state in {ReportState.QUARANTINED, ReportState.BURIED}:
        hand_over(connection, report_id)


def _claimable(now: datetime, enough: Enough | None) -> Select[str]:
    """Ids of reports that wait or whose lease expired, oldest first."""
    table = schema.reports
    state = table.c.state.concat("")  # keeps SQLite from the index of the state, see IN_QUEUE
    waiting = and_(state == ReportState.QUEUED, or_(table.c.next_attempt_at.is_(None), table.c.next_attempt_at <= now))
    abandoned = and_(state == ReportState.REFLECTING, table.c.lease_until <= now)
    query = select(table.c.id).where(text(schema.IN_QUEUE), or_(waiting, abandoned))
    if enough is not None:
        query = query.where(has(enough))
    return query.order_by(table.c.received_at, table.c.id)


def report_row(connection: Connection, report_id: str, *, lock: bool = False) -> Any:
    """The report's row. `lock`: other transactions cannot change it until this one ends."""
    query = select(schema.reports).where(schema.reports.c.id == report_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise unknown(connection, {"id": report_id}, f"no report {report_id!r}; `erratad reports` lists them")
    return row
