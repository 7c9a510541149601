"""Feedback that names a completion and waits for its conversation, and thumbs up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.create_table(
        "signals",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("sent_id", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("lost", sa.String(length=20)),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=False),
        sa.Column("reporter", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=200)),
        sa.Column("flagged", sa.JSON(), nullable=False),
        sa.Column("channel", sa.String(length=200), nullable=False),
        sa.Column("kafka_partition", sa.Integer()),
        sa.Column("kafka_offset", sa.BigInteger()),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("principal", "sent_id", name="uq_signals_sent"),
    )
    op.create_index("ix_signals_state", "signals", ["state", "attempts", "received_at"])
    op.create_index("ix_signals_reporter", "signals", ["principal", "reporter", "received_at"])
    op.create_index("ix_signals_content", "signals", ["content_key"])
