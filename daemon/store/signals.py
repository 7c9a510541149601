"""The queue of short forms that wait for their completion, and the thumbs up that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, or_, select, update

from connectors.messages import FlaggedResponse
from daemon.errors import NotFoundError
from daemon.labels import Lost, SignalState
from daemon.privacy.redact import Redactor
from daemon.records import Evidence, ReportState, utcnow
from daemon.store import schema
from daemon.store.archive_tables import archived, unknown
from daemon.store.audit import record_audit
from daemon.store.candidates import Tenants, of_tenants
from daemon.store.engine import Lock, reading, serialise, transaction
from daemon.store.erasing import blank
from daemon.store.evidence import verified_by_record
from daemon.store.intake import Added, Arrival, store_batch
from daemon.store.quotas import LimitsOf
from daemon.store.signal_table import Signal, signal, signals
from daemon.text.quotes import ERASED

_NO_WORD = (ReportState.QUARANTINED, ReportState.ERASED)
"""Reports in these states flag no answer."""
NOT_STORED = frozenset({Added.OVER_QUOTA, Added.TOO_MUCH})


class Signals:
    def __init__(self, engine: Engine, redactor: Redactor | None = None, *, tenants: Tenants | None = None) -> None:
        """`tenants`: as for `Reports`."""
        self._engine = engine
        self._tenants = tenants
        self._redactor = redactor

    def get(self, signal_id: str) -> Signal:
        """Raises NotFoundError: there is none with this id."""
        return self._only({"id": signal_id}, _no_such(signal_id))

    def sent(self, principal: str, sent_id: str) -> Signal:
        """Raises NotFoundError: the principal sent none under this id."""
        return self._only({"principal": principal, "sent_id": sent_id}, f"{principal} sent no report {sent_id!r}")

    def find(self, *, state: SignalState | None = None, limit: int = 50, offset: int = 0) -> list[Signal]:
        """Newest first."""
        query = select(signals).order_by(signals.c.received_at.desc(), signals.c.id)
        if state is not None:
            query = query.where(signals.c.state == state)
        with reading(self._engine) as connection:
            return [signal(row) for row in connection.execute(query.limit(limit).offset(offset))]

    def due(self, *, limit: int) -> list[Signal]:
        """Short forms to look for now: those that were looked for least come first, then the oldest."""
        now = utcnow()
        wanted = and_(
            signals.c.state == SignalState.WAITING,
            or_(signals.c.next_attempt_at.is_(None), signals.c.next_attempt_at <= now),
        )
        query = select(signals).where(wanted).order_by(signals.c.attempts, signals.c.received_at, signals.c.id)
        with reading(self._engine) as connection:
            return [signal(row) for row in connection.execute(query.limit(limit))]

    def praised(self, *, limit: int, before: datetime) -> list[Signal]:
        """The newest thumbs up that came before this time, in turn over their principals.

        Left out: an answer that a report flags, and a tenant that may not be trained on (`dataset.tenants`).
        """
        reports = schema.reports
        flagged = select(reports.c.id).where(
            reports.c.content_key == signals.c.content_key,
            reports.c.state.not_in(_NO_WORD),
            reports.c.evidence != Evidence.CONTRADICTED,
        )
        turn = func.row_number().over(
            partition_by=signals.c.principal, order_by=(signals.c.received_at.desc(), signals.c.id)
        )
        wanted = and_(
            signals.c.state == SignalState.KEPT,
            signals.c.received_at < before,
            ~flagged.exists(),
            ~select(archived.c.id).where(archived.c.content_key == signals.c.content_key).exists(),
            of_tenants(self._tenants, signals.c.tenant),
        )
        ranked = select(signals, turn.label("turn")).where(wanted).subquery()
        query = select(ranked).order_by(ranked.c.turn, ranked.c.principal).limit(limit)
        with reading(self._engine) as connection:
            return [signal(row) for row in connection.execute(query)]

    def counts(self) -> dict[SignalState, int]:
        query = select(signals.c.state, func.count()).group_by(signals.c.state)
        with reading(self._engine) as connection:
            found: dict[SignalState, int] = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in SignalState}

    def resolve(
        self, waiting: Signal, flagged: FlaggedResponse, *, limits: LimitsOf, verified: str | None = None
    ) -> Added | None:
        """Store the whole message in place of the short form, by the rules of intake; returns its outcome.

        It is counted once as a message: now its bytes are added. Without room for it, or if it holds too much personal
        data, the short form waits on.

        Args:
            verified: The evidence that the model gave the answer, if the servers' record is one.

        Returns:
            None if the short form does not wait any more.
        """
        [made] = Arrival.all_of([(flagged, waiting.source)], self._redactor)
        known = frozenset({waiting.fingerprint})
        arrival = replace(made, fingerprint=waiting.fingerprint, known_as=known, was=waiting.id)
        try:
            with transaction(self._engine) as connection:
                serialise(connection, Lock.INTAKE)
                if not connection.execute(signals.delete().where(_waits(waiting))).rowcount:
                    return None
                added = _store(connection, arrival, limits)
                if verified is not None and added is not Added.KEPT:
                    verified_by_record(connection, waiting.id, verified)
                return added
        except _NotStoredError as exc:
            return exc.added

    def postpone(self, waiting: Signal, *, until: datetime) -> None:
        self._change(waiting, next_attempt_at=until, attempts=waiting.attempts + 1)

    def give_up(self, waiting: Signal, lost: Lost) -> None:
        self._change(waiting, state=SignalState.GIVEN_UP, lost=lost, updated_at=utcnow())

    def erase(self, signal_id: str, *, actor: str, reason: str) -> None:
        """Erase the content of one signal; whatever comes again under its id is not stored. Its id and state stay.

        Raises NotFoundError.
        """
        with transaction(self._engine) as connection:
            row = connection.execute(select(signals).where(signals.c.id == signal_id).with_for_update()).one_or_none()
            if row is None:
                raise NotFoundError(_no_such(signal_id))
            values = {name: value for name, value in blank(row).items() if name in signals.c}
            change = {**values, "state": SignalState.ERASED, "lost": None, "updated_at": utcnow()}
            connection.execute(update(signals).where(signals.c.id == signal_id).values(**change))
            answers = schema.answers
            connection.execute(update(answers).where(answers.c.item_id == signal_id).values(text=ERASED))
            record_audit(connection, actor=actor, action="erase", subject=signal_id, reason=reason)

    def remove(self, *, before: datetime) -> int:
        """Delete signals of before this time that wait for nothing; returns their number.

        A message that comes again with the id of a deleted one is stored as a new one.
        """
        old = and_(signals.c.state != SignalState.WAITING, signals.c.received_at < before)
        with transaction(self._engine) as connection:
            return connection.execute(signals.delete().where(old)).rowcount

    def _change(self, waiting: Signal, **values: object) -> None:
        with transaction(self._engine) as connection:
            connection.execute(update(signals).where(_waits(waiting)).values(**values))

    def _only(self, wanted: Mapping[str, str], missing: str) -> Signal:
        same = (signals.c[name] == value for name, value in wanted.items())
        with reading(self._engine) as connection:
            row = connection.execute(select(signals).where(*same)).one_or_none()
            if row is None:
                raise unknown(connection, wanted, missing)
        return signal(row)


def _no_such(signal_id: str) -> str:
    return f"no report and no feedback has the id {signal_id!r}"


def _waits(one: Signal) -> ColumnElement[bool]:
    return and_(signals.c.id == one.id, signals.c.state == SignalState.WAITING)


def _store(connection: Connection, arrival: Arrival, limits: LimitsOf) -> Added:
    [added] = store_batch(connection, [arrival], limits=limits)
    if added in NOT_STORED:
        raise _NotStoredError(added)
    return added


class _NotStoredError(Exception):
    """Rolls the transaction back."""

    def __init__(self, added: Added) -> None:
        super().__init__(added)
        self.added = added
