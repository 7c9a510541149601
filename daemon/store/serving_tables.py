"""Tables of what the servers do: trials with users, and each generation's traffic."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
)

from daemon.store.columns import UtcDateTime
from daemon.store.schema import metadata

trials = Table(
    "trials",
    metadata,
    Column("generation", Integer, ForeignKey("adapters.generation"), primary_key=True, autoincrement=False),
    Column("run_id", Integer, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("share", Float, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    # no trial with users without an accepting verdict
    CheckConstraint("accepted", name="ck_trials_accepted"),
    ForeignKeyConstraint(["run_id", "accepted"], ["verdicts.run_id", "verdicts.accepted"]),
)
"""The parameters of each canary or shadow at its start; its state is the adapter's."""

shadowed = Table(
    "shadowed",
    metadata,
    Column("epoch", String(64), nullable=False),
    Column("generation", Integer, ForeignKey("adapters.generation"), nullable=False),
    Column("pairs", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("live_errors", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("live_seconds", Float, nullable=False),
    Column("dropped", BigInteger, nullable=False),
    PrimaryKeyConstraint("epoch", "generation"),
)
"""The latest counts of shadow answers of each server process; they only grow."""

traffic = Table(
    "traffic",
    metadata,
    Column("generation", Integer, ForeignKey("adapters.generation"), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("guidance_refusals", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("generation", "since"),
    Index("ix_traffic_since", "since"),
)
"""Each generation's counts under the alias in steps of `store.traffic.STEP`; refusals are no requests."""

traffic_seen = Table(
    "traffic_seen",
    metadata,
    Column("epoch", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("guidance_refusals", BigInteger, nullable=False, server_default="0"),
    Column("seen_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("epoch", "generation"),
)
"""The counts of each server process that are added up already; any increase is new."""
