"""The tables, as `schema.py` described them when this revision was written."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ACTIVE = "state IN ('preparing', 'training', 'evaluating', 'promoting')"


def upgrade() -> None:
    _create_reports()
    _create_runs()
    _create_control()


def _one_of(table: str, column: str, *values: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(sa.column(column).in_(values), name=f"ck_{table}_{column}")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _create_reports() -> None:
    op.create_table(
        "clusters",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("category", sa.String(length=64), nullable=False),
        sa.Column("leader_text", sa.Text(), nullable=False),
        sa.Column("split", sa.String(length=10), nullable=False),
        sa.Column("leader_id", sa.String(length=200), nullable=False),
        _one_of("clusters", "split", "train", "holdout"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("id", "split", name="uq_clusters_id_split"),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=False),
        sa.Column("category", sa.String(length=64), nullable=False),
        sa.Column("reporter", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=200)),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("flagged", sa.JSON(), nullable=False),
        sa.Column("channel", sa.String(length=200), nullable=False),
        sa.Column("kafka_partition", sa.Integer()),
        sa.Column("kafka_offset", sa.BigInteger()),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
        sa.Column("lease_owner", sa.String(length=100)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("state_reason", sa.Text()),
        sa.Column("duplicate_of", sa.String(length=200)),
        sa.Column("cluster_id", sa.Integer()),
        sa.Column("resolved_generation", sa.Integer()),
        sa.CheckConstraint("state <> 'duplicate' OR duplicate_of IS NOT NULL", name="ck_reports_duplicate_of"),
        sa.CheckConstraint("state <> 'reflecting' OR lease_until IS NOT NULL", name="ck_reports_lease"),
        _one_of(
            "reports",
            "state",
            "queued",
            "reflecting",
            "lesson",
            "resolved",
            "recurring",
            "duplicate",
            "quarantined",
            "buried",
            "erased",
        ),
        sa.ForeignKeyConstraint(["cluster_id"], ["clusters.id"]),
        sa.ForeignKeyConstraint(["duplicate_of"], ["reports.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("id", "cluster_id", name="uq_reports_id_cluster"),
    )
    op.create_index("ix_reports_content_key", "reports", ["content_key"])
    op.create_index("ix_reports_queue", "reports", ["received_at", "id"], **_where("state IN ('queued', 'reflecting')"))
    op.create_index("ix_reports_received_at", "reports", ["received_at"])
    op.create_index("ix_reports_reporter", "reports", ["reporter", "received_at"])
    op.create_index("ix_reports_state", "reports", ["state", "received_at"])
    op.create_table(
        "lessons",
        sa.Column("report_id", sa.String(length=200), nullable=False),
        sa.Column("analysis", sa.Text(), nullable=False),
        sa.Column("analyst", sa.String(length=200), nullable=False),
        sa.Column("template", sa.String(length=40), nullable=False),
        sa.Column("correction", sa.Text()),
        sa.Column("correction_source", sa.String(length=20)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(correction IS NULL) = (correction_source IS NULL)", name="ck_lessons_correction"),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"]),
        sa.PrimaryKeyConstraint("report_id"),
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("trigger", sa.String(length=20), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("base_generation", sa.Integer(), nullable=False),
        sa.Column("recipe", sa.String(length=64), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        _one_of("runs", "state", "preparing", "training", "evaluating", "promoting", "promoted", "rejected", "failed"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("generation"),
    )
    op.create_index("uq_runs_one_active", "runs", [sa.text("(1)")], unique=True, **_where(ACTIVE))
    op.create_table(
        "run_items",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("report_id", sa.String(length=200), nullable=False),
        sa.Column("cluster_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.ForeignKeyConstraint(["cluster_id", "role"], ["clusters.id", "clusters.split"]),
        sa.ForeignKeyConstraint(["report_id", "cluster_id"], ["reports.id", "reports.cluster_id"]),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("run_id", "report_id"),
    )
    op.create_index("ix_run_items_report", "run_items", ["report_id"])
    op.create_table(
        "answers",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("suite", sa.String(length=40), nullable=False),
        sa.Column("item_id", sa.String(length=200), nullable=False),
        sa.Column("arm", sa.String(length=100), nullable=False),
        sa.Column("guided", sa.Boolean(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean()),
        sa.Column("margin", sa.Float()),
        sa.Column("bits_per_token", sa.Float()),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("run_id", "suite", "item_id", "arm", "guided"),
    )
    op.create_index("ix_answers_item", "answers", ["item_id"])
    op.create_table(
        "verdicts",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("run_id"),
        sa.UniqueConstraint("run_id", "accepted", name="uq_verdicts_run_accepted"),
    )
    op.create_table(
        "adapters",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("run_id", sa.Integer()),
        sa.Column("path", sa.Text()),
        sa.Column("sha256", sa.String(length=64)),
        sa.Column("reason", sa.Text()),
        sa.Column("evidence_run_id", sa.Integer()),
        sa.Column("evidence_accepted", sa.Boolean()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True)),
        sa.Column("retired_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(
            "generation = 0 OR state IN ('training', 'failed') OR (path IS NOT NULL AND sha256 IS NOT NULL)",
            name="ck_adapters_weights",
        ),
        sa.CheckConstraint(
            "generation = 0 OR state NOT IN ('live', 'retired', 'rolled-back') "
            "OR COALESCE(evidence_run_id = run_id AND evidence_accepted, FALSE)",
            name="ck_adapters_evidence",
        ),
        _one_of(
            "adapters",
            "state",
            "training",
            "candidate",
            "shadow",
            "canary",
            "live",
            "retired",
            "failed",
            "rejected",
            "rolled-back",
        ),
        sa.CheckConstraint("generation = 0 OR run_id IS NOT NULL", name="ck_adapters_run"),
        sa.ForeignKeyConstraint(["evidence_run_id", "evidence_accepted"], ["verdicts.run_id", "verdicts.accepted"]),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.PrimaryKeyConstraint("generation"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("run_id"),
    )
    op.create_index("uq_adapters_one_live", "adapters", ["state"], unique=True, **_where("state = 'live'"))


def _create_control() -> None:
    op.create_table(
        "intents",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("target_generation", sa.Integer()),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        _one_of("intents", "kind", "train", "promote", "rollback"),
        _one_of("intents", "state", "pending", "done", "refused"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("event_id"),
    )
    op.create_index("ix_outbox_unpublished", "outbox", ["published_at", "sequence"])
    op.create_table(
        "audit",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    op.create_table(
        "pauses",
        sa.Column("stage", sa.String(length=40), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("stage"),
    )
    op.create_table(
        "stages",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("last_step_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", "owner"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
