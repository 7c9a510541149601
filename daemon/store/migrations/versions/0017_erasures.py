"""Erasures with their certificates, and the lessons that held erased text."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("report_id", sa.String(length=200), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("after", sa.String(length=20), nullable=False),
        sa.Column("certificate", sa.JSON()),
        sa.PrimaryKeyConstraint("report_id"),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"]),
    )
    op.create_table(
        "erased_lessons",
        sa.Column("erasure", sa.String(length=200), nullable=False),
        sa.Column("report_id", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("erasure", "report_id"),
        sa.ForeignKeyConstraint(["erasure"], ["erasures.report_id"]),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"]),
    )
    op.create_index("ix_erased_lessons_report", "erased_lessons", ["report_id"])
