"""Candidates on trial (canary, shadow), and what shadows answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ON_TRIAL = "state IN ('shadow', 'canary')"


def upgrade() -> None:
    op.create_index(
        "uq_adapters_one_on_trial",
        "adapters",
        [sa.text("(1)")],
        unique=True,
        sqlite_where=sa.text(ON_TRIAL),
        postgresql_where=sa.text(ON_TRIAL),
    )
    op.create_table(
        "trials",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("accepted", name="ck_trials_accepted"),
        sa.ForeignKeyConstraint(["generation"], ["adapters.generation"]),
        sa.ForeignKeyConstraint(["run_id", "accepted"], ["verdicts.run_id", "verdicts.accepted"]),
        sa.PrimaryKeyConstraint("generation"),
    )
    op.create_table(
        "shadowed",
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("pairs", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("live_errors", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("live_seconds", sa.Float(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["generation"], ["adapters.generation"]),
        sa.PrimaryKeyConstraint("epoch", "generation"),
    )
