"""Intake of reports. The number of statements per batch does not depend on the number of messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, func, select, union_all

from connectors.messages import FlaggedResponse, Rating
from daemon.categories import NOT_NAMED
from daemon.labels import Lost, SignalState
from daemon.privacy.redact import Redactor, as_it_is
from daemon.records import Evidence, ReportState, Source
from daemon.store import schema
from daemon.store.archive_tables import archived
from daemon.store.duplicates import IN_PLAY
from daemon.store.engine import Lock, database_time, serialise
from daemon.store.erasing import ERASED_KEY
from daemon.store.originals import keep_originals
from daemon.store.quotas import WINDOW, LimitsOf, Quotas
from daemon.store.signal_table import signals
from daemon.store.standing import came_in

Key = tuple[str, str]
"""A principal, and one of its ids or reporters."""
LOOKUP_SIZE = 1000
"""Messages per lookup statement; PostgreSQL allows at most 65,535 parameters."""
MAX_SENT_CHARACTERS = 120
MAX_PRINCIPAL_CHARACTERS = 60
"""The parts of an id made from an id as sent and its principal."""


class Added(StrEnum):
    """The outcome for one message given to `Reports.add`."""

    STORED = "stored"
    REDELIVERED = "redelivered"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"
    WAITING = "waiting"
    """Stored in the short form, until the servers' record of its completion is read."""
    KEPT = "kept"
    """A thumb up: stored for the gate, and no report."""
    QUARANTINED = "quarantined"
    OVER_QUOTA = "quota"
    """Not stored: its principal has no quota left."""
    TOO_MUCH = "oversized"
    """Not stored: it holds too much personal data to be redacted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One message with its hashes, computed before the transaction begins."""

    flagged: FlaggedResponse
    source: Source
    fingerprint: str
    known_as: frozenset[str]
    """The fingerprints of a redelivery: with and without redaction."""
    content_key: str
    document: Mapping[str, Any]
    size_bytes: int
    sealed: bytes | None = None
    """The encrypted original, if it is kept."""
    too_much: bool = False
    was: str | None = None
    """The id of the short form that it was before: it is counted as a message already."""

    @property
    def key(self) -> Key:
        return self.source.principal, self.flagged.id

    @property
    def answer(self) -> tuple[str, str | None]:
        """What duplicates share: the answer and the tenant. Reports of two tenants are never analysed as one."""
        return self.content_key, self.flagged.tenant

    @property
    def reporter(self) -> Key:
        return self.source.principal, self.flagged.reporter

    @classmethod
    def all_of(cls, batch: Sequence[tuple[FlaggedResponse, Source]], redactor: Redactor | None = None) -> list[Arrival]:
        """The messages without personal data, in this order; `redactor` None: as they are."""
        messages = [flagged for flagged, _ in batch]
        redacted = map(as_it_is, messages) if redactor is None else redactor.redact_all(messages)
        return [
            cls(
                flagged=clean.flagged,
                source=source,
                fingerprint=clean.fingerprint,
                known_as=clean.known_as,
                content_key=clean.flagged.content_key(),
                document=clean.document,
                sealed=clean.sealed,
                too_much=clean.too_much,
                size_bytes=len(flagged.encode()),
            )
            for (flagged, source), clean in zip(batch, redacted, strict=True)
        ]


def store_batch(connection: Connection, arrivals: Sequence[Arrival], *, limits: LimitsOf) -> list[Added]:
    """Store the new arrivals, within the limits of their principals; returns one outcome per arrival, in order.

    Batches run one at a time (on PostgreSQL by a lock), so two consumers cannot both find an id, an answer or a
    reporter's last free place unused.
    """
    serialise(connection, Lock.INTAKE)
    now = database_time(connection)
    quotas = Quotas(connection, {arrival.source.principal for arrival in arrivals}, now=now)
    outcomes: list[Added] = []
    for start in range(0, len(arrivals), LOOKUP_SIZE):
        part = arrivals[start : start + LOOKUP_SIZE]
        intake = _Intake(connection, part, now=now, limits=limits, quotas=quotas)
        outcomes += [intake.take(arrival) for arrival in part]
        if intake.rows:
            connection.execute(schema.reports.insert(), intake.rows)
            keep_originals(connection, intake.sealed)
        if intake.signals:
            connection.execute(signals.insert(), intake.signals)
        came_in(connection, intake.duplicates)
    quotas.save()
    return outcomes


class _Intake:
    """The stored facts about one part of a batch, updated with each message of the part."""

    def __init__(
        self, connection: Connection, part: Sequence[Arrival], *, now: datetime, limits: LimitsOf, quotas: Quotas
    ) -> None:
        self._now = now
        self._limits = limits
        self._quotas = quotas
        self._connection = connection
        self._fingerprints = _fingerprints(connection, {arrival.key for arrival in part})
        self._ids = _stored(connection, {arrival.flagged.id for arrival in part})
        self._originals = _originals(connection, {arrival.content_key for arrival in part})
        self._recent = _recent(connection, {arrival.reporter for arrival in part}, since=now - WINDOW)
        self.rows: list[dict[str, Any]] = []
        self.signals: list[dict[str, Any]] = []
        self.sealed: dict[str, bytes] = {}
        """The encrypted originals by report."""
        self.duplicates: dict[str, list[str]] = {}
        """The new reports of a stored answer, by the report that stands for the answer."""

    def take(self, arrival: Arrival) -> Added:
        flagged = arrival.flagged
        known = self._fingerprints.get(arrival.key)
        if known is not None:
            # whatever comes again under the id of an erased report is not stored, and makes no dead letter
            return Added.REDELIVERED if known in {*arrival.known_as, ERASED_KEY} else Added.CONFLICT
        if arrival.too_much:
            return Added.TOO_MUCH
        principal = arrival.source.principal
        limits, recent = self._limits(principal), self._recent.get(arrival.reporter, 0)
        is_spare = recent >= limits.reports_per_reporter
        count = 0 if arrival.was else 1
        if not self._quotas.take(principal, arrival.size_bytes, limits, is_spare=is_spare, reports=count):
            return Added.OVER_QUOTA
        report_id = arrival.was or self._free_id(arrival)
        self._fingerprints[arrival.key] = arrival.fingerprint
        self._recent[arrival.reporter] = recent + 1
        if flagged.is_awaited or flagged.rating is Rating.UP:
            row = _signal_row(arrival, report_id, is_spare=is_spare, now=self._now)
            self.signals.append(row)
            return Added.WAITING if row["state"] == SignalState.WAITING else Added.KEPT
        return self._take_report(arrival, report_id, is_spare=is_spare)

    def _take_report(self, arrival: Arrival, report_id: str, *, is_spare: bool) -> Added:
        answer = arrival.answer
        original = self._originals.get(answer)
        outcome, state, reason = Added.STORED, ReportState.QUEUED, None
        if is_spare:
            outcome, state, original = Added.QUARANTINED, ReportState.QUARANTINED, None
            most = self._limits(arrival.source.principal).reports_per_reporter
            reason = f"reporter {arrival.flagged.reporter} sent more than {most} reports in 24 hours"
        elif original is not None:
            outcome, state = Added.DUPLICATE, ReportState.DUPLICATE
            reason = f"the same answer is report {original}: reason, follow-up, correction and checks count there"
            self.duplicates.setdefault(original, []).append(report_id)
        else:
            self._originals[answer] = report_id
        row = _row(arrival, report_id, state=state, reason=reason, duplicate_of=original, now=self._now)
        self.rows.append(row)
        if arrival.sealed is not None:
            self.sealed[report_id] = arrival.sealed
        return outcome

    def _free_id(self, arrival: Arrival) -> str:
        """The id as sent, or one made from it if another principal used it first: nobody can take another's id."""
        found, number = arrival.flagged.id, 1
        while found in self._ids:
            principal = re.sub(r"[^A-Za-z0-9._-]", "-", arrival.source.principal)[:MAX_PRINCIPAL_CHARACTERS]
            found = f"{arrival.flagged.id[:MAX_SENT_CHARACTERS]}@{principal}{'' if number == 1 else f':{number}'}"
            number += 1
            if found not in self._ids:
                self._ids |= _stored(self._connection, {found})
        self._ids.add(found)
        return found


_RECENT = (schema.reports, signals)
_TABLES = (*_RECENT, archived)
"""An id is used once, by a report or by a signal. One statement asks all: reports move to the archive at any time."""
_GIVEN: BindParameter[Any] = bindparam("given", expanding=True)
"""A list of values. The statements are built once: with many values that takes longer than running them."""
_FINGERPRINTS = union_all(
    *(
        select(table.c.sent_id, table.c.fingerprint).where(
            table.c.principal == bindparam("principal"), table.c.sent_id.in_(_GIVEN)
        )
        for table in _TABLES
    )
)
_USED_IDS = union_all(*(select(table.c.id).where(table.c.id.in_(_GIVEN)) for table in _TABLES))
_BY_REPORTER = [
    select(table.c.reporter, func.count())
    .where(
        table.c.principal == bindparam("principal"),
        table.c.reporter.in_(_GIVEN),
        table.c.received_at > bindparam("since"),
    )
    .group_by(table.c.reporter)
    for table in _RECENT
]
_ORIGINALS = (
    select(schema.reports.c.content_key, schema.reports.c.tenant, schema.reports.c.id)
    .where(
        schema.reports.c.content_key.in_(_GIVEN),
        schema.reports.c.duplicate_of.is_(None),
        # else SQLite takes the index of the state, which nearly all share
        schema.reports.c.state.concat("").in_(IN_PLAY),
        schema.reports.c.evidence != Evidence.CONTRADICTED,
    )
    .order_by(schema.reports.c.received_at.desc(), schema.reports.c.id.desc())
    .with_for_update()
)


def _fingerprints(connection: Connection, keys: set[Key]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for principal, sent_ids in _by_principal(keys).items():
        given = {"principal": principal, "given": sent_ids}
        found |= {(principal, row[0]): row[1] for row in connection.execute(_FINGERPRINTS, given)}
    return found


def _by_principal(keys: set[Key]) -> dict[str, list[str]]:
    """For an index of both columns: SQLite looks through the whole table for a list of pairs."""
    found: dict[str, list[str]] = {}
    for principal, name in sorted(keys):
        found.setdefault(principal, []).append(name)
    return found


def _stored(connection: Connection, ids: set[str]) -> set[str]:
    """Those of the ids that are used."""
    return set(connection.execute(_USED_IDS, {"given": sorted(ids)}).scalars())


def _originals(connection: Connection, content_keys: Iterable[str]) -> dict[tuple[str, str | None], str]:
    """The report that stands for each answer of a tenant. One that is quarantined, buried or erased stands for none.

    The rows are locked: nothing may change their state before the new duplicates are stored.
    """
    found = connection.execute(_ORIGINALS, {"given": list(content_keys)})
    return {(row.content_key, row.tenant): row.id for row in found}


def _recent(connection: Connection, reporters: set[Key], *, since: datetime) -> dict[Key, int]:
    found: Counter[Key] = Counter()
    for query, (principal, names) in product(_BY_REPORTER, _by_principal(reporters).items()):
        given = {"principal": principal, "given": names, "since": since}
        found.update({(principal, row[0]): row[1] for row in connection.execute(query, given)})
    return found


def _row(
    arrival: Arrival, report_id: str, *, state: ReportState, reason: str | None, duplicate_of: str | None, now: datetime
) -> dict[str, Any]:
    return {
        **_common(arrival, report_id, now),
        "state": state,
        "category": arrival.flagged.category or NOT_NAMED,
        "severity": arrival.flagged.severity,
        "model": arrival.flagged.model,
        "state_reason": reason,
        "duplicate_of": duplicate_of,
    }


def _signal_row(arrival: Arrival, signal_id: str, *, is_spare: bool, now: datetime) -> dict[str, Any]:
    """`is_spare`: a thumb up above its reporter's limit is not used. A short form may become a quarantined report."""
    state = SignalState.WAITING if arrival.flagged.is_awaited else SignalState.KEPT
    lost = Lost.TOO_MANY if is_spare and state is SignalState.KEPT else None
    return {
        **_common(arrival, signal_id, now),
        "state": SignalState.GIVEN_UP if lost else state,
        "lost": lost,
    }


def _common(arrival: Arrival, free_id: str, now: datetime) -> dict[str, Any]:
    return {
        "id": free_id,
        "principal": arrival.source.principal,
        "sent_id": arrival.flagged.id,
        "fingerprint": arrival.fingerprint,
        "content_key": arrival.content_key,
        "reporter": arrival.flagged.reporter,
        "tenant": arrival.flagged.tenant,
        "flagged": {**arrival.document, "id": free_id},
        "channel": arrival.source.channel,
        "kafka_partition": arrival.source.partition,
        "kafka_offset": arrival.source.offset,
        "received_at": now,
        "updated_at": now,
    }
