"""Messages that are no report, or none yet: short forms that wait for their completion, and thumbs up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table, UniqueConstraint

from connectors.messages import FlaggedResponse
from daemon.labels import Lost, SignalState
from daemon.records import Source
from daemon.store.columns import OneOf, UtcDateTime
from daemon.store.rows import record
from daemon.store.schema import metadata

signals = Table(
    "signals",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("principal", String(200), nullable=False),
    Column("sent_id", String(200), nullable=False),
    Column("state", OneOf(SignalState), nullable=False),
    Column("lost", OneOf(Lost)),
    Column("fingerprint", String(64), nullable=False),
    Column("content_key", String(64), nullable=False),
    Column("reporter", String(200), nullable=False),
    Column("tenant", String(200)),
    Column("flagged", JSON, nullable=False),
    Column("channel", String(200), nullable=False),
    Column("kafka_partition", Integer),
    Column("kafka_offset", BigInteger),
    Column("received_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", UtcDateTime),
    UniqueConstraint("principal", "sent_id", name="uq_signals_sent"),
    Index("ix_signals_state", "state", "attempts", "received_at"),
    Index("ix_signals_reporter", "principal", "reporter", "received_at"),
    Index("ix_signals_content", "content_key"),
    Index("ix_signals_received_at", "received_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One row. `flagged` is whole once the state is `kept`; `sent_id` is the id under which `source` sent it."""

    id: str
    sent_id: str
    state: SignalState
    flagged: FlaggedResponse
    source: Source
    fingerprint: str
    received_at: datetime
    updated_at: datetime
    attempts: int = 0
    lost: Lost | None = None


def signal(row: Any) -> Signal:
    source = Source(
        channel=row.channel, principal=row.principal, partition=row.kafka_partition, offset=row.kafka_offset
    )
    return record(Signal, row, flagged=FlaggedResponse.model_validate(row.flagged), source=source)
