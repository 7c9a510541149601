"""The last review of each person, which can be undone, and the figures of each day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("report_id", sa.String(length=200), nullable=False),
        sa.Column("decision", sa.String(length=20), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("after", sa.String(length=20), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("actor"),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"]),
    )
    op.create_index("ix_decisions_report", "decisions", ["report_id"])
    op.create_table(
        "days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("most_queued", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day"),
    )
    op.create_index("ix_signals_received_at", "signals", ["received_at"])
    op.create_index("ix_traffic_since", "traffic", ["since"])
    transitions = sa.table("transitions", *(sa.column(name) for name in ("machine", "old", "new")))
    undone = ("quarantined", "lesson", "recurring", "improved", "not-reproduced")
    op.bulk_insert(transitions, [{"machine": "reports", "old": "buried", "new": state} for state in undone])
