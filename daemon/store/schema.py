"""Tables. Legal transitions, the one live adapter and the holdout rule are constraints here, not checks in code."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from connectors.messages import Severity
from daemon.categories import Kind
from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy
from daemon.records import (
    ACTIVE_RUN_STATES,
    AdapterState,
    CorrectionSource,
    Evidence,
    IntentKind,
    IntentState,
    ReportState,
    RunState,
    Split,
    Trigger,
)
from daemon.store.columns import AnyText, OneOf, UtcDateTime


def _one_of(column: str, states: type[StrEnum], table: str) -> CheckConstraint:
    allowed = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"ck_{table}_{column}")


def _where(condition: str) -> dict[str, Any]:
    """Arguments for a partial index with this condition."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


metadata = MetaData()

IN_QUEUE = "(state || '') IN ('queued', 'reflecting')"
"""A condition without parameters, so that both databases use the partial index for it.

The empty text keeps SQLite from an index of the state: it would sort the whole backlog.
"""

TRAINABLE = "state IN ('lesson', 'recurring', 'improved', 'resolved')"
"""States of reports that a run may use; likewise without parameters."""

WITHOUT_EVIDENCE = "evidence_at IS NULL AND state NOT IN ('resolved', 'duplicate', 'quarantined', 'buried', 'erased')"
"""Likewise, for the reports whose evidence was not looked for yet. NOT IN: SQLite would take another index for IN."""

transitions = Table(
    "transitions",
    metadata,
    Column("machine", String(20), nullable=False),
    Column("old", String(20), nullable=False),
    Column("new", String(20), nullable=False),
    PrimaryKeyConstraint("machine", "old", "new"),
)
"""The legal changes of state, for the triggers. `old` is empty for the initial states."""

clusters = Table(
    "clusters",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("category", String(64), nullable=False),
    Column("leader_text", AnyText, nullable=False),
    Column("split", OneOf(Split, 10), nullable=False),
    # the report with the text in `leader_text`; no foreign key, because reports point to clusters
    Column("leader_id", String(200), nullable=False),
    Column("words_version", Integer, nullable=False, server_default="0"),  # see `leader_words`
    UniqueConstraint("id", "split", name="uq_clusters_id_split"),
    _one_of("split", Split, "clusters"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("state", OneOf(ReportState), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("content_key", String(64), nullable=False),
    Column("category", String(64), nullable=False),
    Column("severity", String(20), nullable=False, server_default=Severity.MEDIUM.value),
    Column("principal", String(200), nullable=False, server_default="unknown"),
    Column("sent_id", String(200), nullable=False, server_default="unknown"),
    Column("evidence", OneOf(Evidence), nullable=False, server_default=Evidence.CLAIMED.value),
    Column("evidence_detail", AnyText),
    Column("evidence_at", UtcDateTime),
    Column("reporter", String(200), nullable=False),
    Column("tenant", String(200)),
    Column("model", String(200), nullable=False),
    Column("flagged", JSON, nullable=False),
    Column("channel", String(200), nullable=False),
    Column("kafka_partition", Integer),
    Column("kafka_offset", BigInteger),
    Column("received_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", UtcDateTime),
    Column("lease_owner", String(100)),
    Column("lease_until", UtcDateTime),
    Column("state_reason", AnyText),
    Column("duplicate_of", String(200), ForeignKey("reports.id")),
    Column("cluster_id", Integer, ForeignKey("clusters.id")),
    Column("resolved_generation", Integer),
    Column("guessed_kind", OneOf(Kind)),
    Column("guessed_by", String(200)),
    UniqueConstraint("id", "cluster_id", name="uq_reports_id_cluster"),
    _one_of("state", ReportState, "reports"),
    CheckConstraint("state <> 'reflecting' OR lease_until IS NOT NULL", name="ck_reports_lease"),
    CheckConstraint("state <> 'duplicate' OR duplicate_of IS NOT NULL", name="ck_reports_duplicate_of"),
    Index("ix_reports_state", "state", "received_at"),
    Index("ix_reports_queue", "received_at", "id", **_where(IN_QUEUE)),
    Index("ix_reports_without_evidence", "principal", "received_at", "id", **_where(WITHOUT_EVIDENCE)),
    Index("ix_reports_evidence", "evidence", "state"),
    Index("ix_reports_content_key", "content_key"),
    Index("uq_reports_sent", "principal", "sent_id", unique=True),
    Index("ix_reports_principal", "principal", "reporter", "received_at"),
    Index("ix_reports_trainable", "state", "principal", "reporter", "received_at", "id", **_where(TRAINABLE)),
    Index("ix_reports_reporter", "reporter", "received_at"),
    Index("ix_reports_received_at", "received_at"),
    Index("ix_reports_model", "model", "received_at"),
    Index("ix_reports_severity", "severity", "received_at"),
    Index("ix_reports_tenant", "tenant", "received_at"),
    Index("ix_reports_cluster", "cluster_id"),
    Index("ix_reports_of_principal", "principal", "received_at"),
    Index("ix_reports_category", text("coalesce(guessed_kind, category)"), "received_at"),
    Index("ix_reports_evidence_at", "evidence_at", **_where("evidence_at IS NOT NULL")),
    Index("ix_reports_duplicate_of", "duplicate_of", "principal", "received_at", **_where("duplicate_of IS NOT NULL")),
)

lessons = Table(
    "lessons",
    metadata,
    Column("report_id", String(200), ForeignKey("reports.id"), primary_key=True),
    Column("analysis", AnyText, nullable=False),
    Column("analyst", String(200), nullable=False),
    Column("template", String(40), nullable=False),
    Column("correction", AnyText),
    Column("correction_source", OneOf(CorrectionSource)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("review_weight", Integer),
    Column("set_aside_from", String(200)),
    Column("reviewed_by", String(200)),
    Column("reviewed_at", UtcDateTime),
    Column("judged_better", Boolean),
    Column("generation", Integer),
    Column("analyses", JSON),
    CheckConstraint("(correction IS NULL) = (correction_source IS NULL)", name="ck_lessons_correction"),
    Index("ix_lessons_created_at", "created_at"),
    Index("ix_lessons_reviewed_at", "reviewed_at", **_where("reviewed_at IS NOT NULL")),
    Index("ix_lessons_set_aside", "review_weight", **_where("review_weight IS NOT NULL")),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("state", OneOf(RunState), nullable=False),
    Column("trigger", OneOf(Trigger), nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("generation", Integer, nullable=False, unique=True),
    Column("base_generation", Integer, nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("folder", Text, nullable=False),
    Column("reason", AnyText),
    Column("progress", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    _one_of("state", RunState, "runs"),
)
_active = ", ".join(f"'{state}'" for state in ACTIVE_RUN_STATES)
Index("uq_runs_one_active", text("(1)"), unique=True, **_where(f"state IN ({_active})"), _table=runs)

run_items = Table(
    "run_items",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("report_id", String(200), nullable=False),
    Column("cluster_id", Integer, nullable=False),
    Column("role", OneOf(Split, 10), nullable=False),
    PrimaryKeyConstraint("run_id", "report_id"),
    ForeignKeyConstraint(["report_id", "cluster_id"], ["reports.id", "reports.cluster_id"]),
    # a cluster has one split permanently, so no training item can share a cluster with a holdout item
    ForeignKeyConstraint(["cluster_id", "role"], ["clusters.id", "clusters.split"]),
    Index("ix_run_items_report", "report_id"),
)

left_out = Table(
    "left_out",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("report_id", String(200), ForeignKey("reports.id"), nullable=False),
    Column("stage", OneOf(LeftOutBy), nullable=False),
    Column("reason", OneOf(LeftOut, 30), nullable=False),
    Column("detail", AnyText, nullable=False),
    PrimaryKeyConstraint("run_id", "report_id", "stage"),
    Index("ix_left_out_report", "report_id", "run_id"),
)

answers = Table(
    "answers",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("suite", String(40), nullable=False),
    Column("item_id", String(200), nullable=False),
    Column("arm", String(100), nullable=False),
    Column("guided", Boolean, nullable=False),
    Column("sample", Integer, nullable=False, server_default="0"),
    Column("text", AnyText, nullable=False),
    Column("passed", Boolean),
    Column("margin", Float),
    Column("bits_per_token", Float),
    Column("cut", Boolean),
    PrimaryKeyConstraint("run_id", "suite", "item_id", "arm", "guided", "sample"),
    Index("ix_answers_item", "item_id"),
)

retests = Table(
    "retests",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("report_id", String(200), ForeignKey("reports.id"), nullable=False),
    Column("before_passed", Integer, nullable=False),
    Column("before_answers", Integer, nullable=False),
    Column("after_passed", Integer, nullable=False),
    Column("after_answers", Integer, nullable=False),
    Column("outcome", OneOf(ReportState)),
    PrimaryKeyConstraint("run_id", "report_id"),
    Index("ix_retests_report", "report_id", "run_id"),
)
"""Reports that runs asked again, and the outcome for each."""

verdicts = Table(
    "verdicts",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("accepted", Boolean, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("figures", JSON, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    UniqueConstraint("run_id", "accepted", name="uq_verdicts_run_accepted"),
)

adapters = Table(
    "adapters",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("name", String(100), nullable=False, unique=True),
    Column("state", OneOf(AdapterState), nullable=False),
    Column("run_id", Integer, ForeignKey("runs.id"), unique=True),
    Column("path", Text),
    Column("sha256", String(64)),
    Column("reason", AnyText),
    Column("evidence_run_id", Integer),
    Column("evidence_accepted", Boolean),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("promoted_at", UtcDateTime),
    Column("retired_at", UtcDateTime),
    Column("files_removed_at", UtcDateTime),
    _one_of("state", AdapterState, "adapters"),
    CheckConstraint("generation = 0 OR run_id IS NOT NULL", name="ck_adapters_run"),
    # nothing goes live without an accepting verdict; generation 0 is the base model
    CheckConstraint(
        "generation = 0 OR state NOT IN ('live', 'retired', 'rolled-back') "
        "OR COALESCE(evidence_run_id = run_id AND evidence_accepted, FALSE)",
        name="ck_adapters_evidence",
    ),
    ForeignKeyConstraint(["evidence_run_id", "evidence_accepted"], ["verdicts.run_id", "verdicts.accepted"]),
    CheckConstraint(
        "generation = 0 OR state IN ('training', 'failed') OR (path IS NOT NULL AND sha256 IS NOT NULL)",
        name="ck_adapters_weights",
    ),
)
Index("uq_adapters_one_live", adapters.c.state, unique=True, **_where("state = 'live'"))
Index("uq_adapters_one_on_trial", text("(1)"), unique=True, **_where("state IN ('shadow', 'canary')"), _table=adapters)

intents = Table(
    "intents",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", OneOf(IntentKind), nullable=False),
    Column("state", OneOf(IntentState), nullable=False),
    Column("target_generation", Integer),
    Column("actor", String(200), nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("outcome", AnyText),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    _one_of("kind", IntentKind, "intents"),
    _one_of("state", IntentState, "intents"),
)

inductions = Table(
    "inductions",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("trigger", OneOf(Trigger), nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("position", Integer, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("kept", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("reason", AnyText),
)
"""Induction runs with their positions."""
Index("uq_inductions_one_active", text("(1)"), unique=True, **_where("finished_at IS NULL"), _table=inductions)

outbox = Table(
    "outbox",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("event_id", String(200), nullable=False, unique=True),
    Column("event", JSON, nullable=False),
    Column("created_at", UtcDateTime),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("sequence", Integer, ForeignKey("outbox.sequence"), nullable=False),
    Column("sink", String(20), nullable=False),
    Column("type", String(40), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", UtcDateTime),
    Column("error", AnyText),
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("sequence", "sink"),
    # in outbox order for a sink that takes all events, by type for a sink that takes some
    Index("ix_deliveries_due", "sink", "state", "sequence"),
    Index("ix_deliveries_type", "sink", "state", "type", "sequence"),
    Index("ix_deliveries_error", "sink", "updated_at", **_where("error IS NOT NULL")),
)
"""The delivery state of each event at each sink. `type` repeats the event's type, for the index."""

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("reason", AnyText, nullable=False),
)

pauses = Table(
    "pauses",
    metadata,
    Column("stage", String(40), primary_key=True),
    Column("actor", String(200), nullable=False),
    Column("reason", AnyText, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

stages = Table(
    "stages",
    metadata,
    Column("name", String(40), nullable=False),
    Column("owner", String(100), nullable=False),
    Column("last_step_at", UtcDateTime, nullable=False),
    Column("sentence", AnyText, nullable=False),
    PrimaryKeyConstraint("name", "owner"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("term", BigInteger, nullable=False, server_default="0"),  # see `daemon.store.terms`
)
