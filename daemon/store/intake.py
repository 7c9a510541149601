"""Intake of reports. The number of statements per batch does not depend on the number of messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, select

from connectors.messages import FlaggedResponse
from daemon.records import ReportState, Source
from daemon.store import schema
from daemon.store.duplicates import IN_PLAY, analyse_again
from daemon.store.engine import Lock, database_time, serialise

CAP_WINDOW = timedelta(days=1)
LOOKUP_SIZE = 1000
"""Messages per lookup statement; PostgreSQL allows at most 65,535 parameters."""


class Added(StrEnum):
    """The outcome for one message given to `Reports.add`."""

    STORED = "stored"
    REDELIVERED = "redelivered"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One message with its hashes, computed before the transaction begins."""

    flagged: FlaggedResponse
    source: Source
    fingerprint: str
    content_key: str
    document: dict[str, Any]

    @classmethod
    def of(cls, flagged: FlaggedResponse, source: Source) -> Arrival:
        return cls(
            flagged=flagged,
            source=source,
            fingerprint=flagged.fingerprint(),
            content_key=flagged.content_key(),
            document=flagged.model_dump(mode="json", exclude_none=True),
        )


def store_batch(connection: Connection, arrivals: Sequence[Arrival], *, reporter_cap: int) -> list[Added]:
    """Store the new arrivals; returns one outcome per arrival, in order.

    Batches run one at a time (on PostgreSQL by a lock), so two consumers cannot both find an id, an answer or a
    reporter's last free place unused.
    """
    serialise(connection, Lock.INTAKE)
    now = database_time(connection)
    outcomes: list[Added] = []
    for start in range(0, len(arrivals), LOOKUP_SIZE):
        part = arrivals[start : start + LOOKUP_SIZE]
        intake = _Intake(connection, part, now=now, reporter_cap=reporter_cap)
        outcomes += [intake.take(arrival) for arrival in part]
        if intake.rows:
            connection.execute(schema.reports.insert(), intake.rows)
        analyse_again(connection, intake.duplicates)
    return outcomes


class _Intake:
    """The stored facts about one part of a batch, updated with each message of the part."""

    def __init__(self, connection: Connection, part: Sequence[Arrival], *, now: datetime, reporter_cap: int) -> None:
        self._now = now
        self._cap = reporter_cap
        self._fingerprints = _fingerprints(connection, {arrival.flagged.id for arrival in part})
        self._originals = _originals(connection, {arrival.content_key for arrival in part})
        self._recent = _recent(connection, {arrival.flagged.reporter for arrival in part}, since=now - CAP_WINDOW)
        self.rows: list[dict[str, Any]] = []
        self.duplicates: dict[str, list[str]] = {}
        """The new reports of a stored answer, by the report that stands for the answer."""

    def take(self, arrival: Arrival) -> Added:
        flagged = arrival.flagged
        known = self._fingerprints.get(flagged.id)
        if known is not None:
            return Added.REDELIVERED if known == arrival.fingerprint else Added.CONFLICT
        original = self._originals.get(arrival.content_key)
        recent = self._recent.get(flagged.reporter, 0)
        outcome, state, reason = Added.STORED, ReportState.QUEUED, None
        if recent >= self._cap:
            outcome, state, original = Added.QUARANTINED, ReportState.QUARANTINED, None
            reason = f"reporter {flagged.reporter} sent more than {self._cap} reports in 24 hours"
        elif original is not None:
            outcome, state = Added.DUPLICATE, ReportState.DUPLICATE
            reason = f"the same answer is report {original}: reason, correction and checks count there"
            self.duplicates.setdefault(original, []).append(flagged.id)
        else:
            self._originals[arrival.content_key] = flagged.id
        self._fingerprints[flagged.id] = arrival.fingerprint
        self._recent[flagged.reporter] = recent + 1
        self.rows.append(_row(arrival, state=state, reason=reason, duplicate_of=original, now=self._now))
        return outcome


def _fingerprints(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    table = schema.reports
    rows = connection.execute(select(table.c.id, table.c.fingerprint).where(table.c.id.in_(ids)))
    return {row.id: row.fingerprint for row in rows}


def _originals(connection: Connection, content_keys: Iterable[str]) -> dict[str, str]:
    """The report that stands for each answer. One that is quarantined, buried or erased stands for none.

    The rows are locked: nothing may change their state before the new duplicates are stored.
    """
    table = schema.reports
    query = (
        select(table.c.content_key, table.c.id)
        .where(
            table.c.content_key.in_(content_keys),
            table.c.duplicate_of.is_(None),
            table.c.state.in_(IN_PLAY),
        )
        .order_by(table.c.received_at.desc(), table.c.id.desc())
        .with_for_update()
    )
    return {row.content_key: row.id for row in connection.execute(query)}


def _recent(connection: Connection, reporters: Iterable[str], *, since: datetime) -> dict[str, int]:
    table = schema.reports
    query = (
        select(table.c.reporter, func.count())
        .where(table.c.reporter.in_(reporters), table.c.received_at > since)
        .group_by(table.c.reporter)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _row(
    arrival: Arrival, *, state: ReportState, reason: str | None, duplicate_of: str | None, now: datetime
) -> dict[str, Any]:
    return {
        "id": arrival.flagged.id,
        "state": state,
        "fingerprint": arrival.fingerprint,
        "content_key": arrival.content_key,
        "category": arrival.flagged.category,
        "reporter": arrival.flagged.reporter,
        "tenant": arrival.flagged.tenant,
        "model": arrival.flagged.model,
        "flagged": arrival.document,
        "channel": arrival.source.channel,
        "kafka_partition": arrival.source.partition,
        "kafka_offset": arrival.source.offset,
        "received_at": now,
        "updated_at": now,
        "state_reason": reason,
        "duplicate_of": duplicate_of,
    }
