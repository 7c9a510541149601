"""Where archived reports are, and an index for the duplicates of a report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"

A_DUPLICATE = sa.text("duplicate_of IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "archive_files",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("reports", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64)),
        sa.Column("partitions", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "archived",
        sa.Column("id", sa.String(length=200), primary_key=True),
        sa.Column("file_id", sa.Integer(), sa.ForeignKey("archive_files.id"), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("sent_id", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("content_key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("uq_archived_sent", "archived", ["principal", "sent_id"], unique=True)
    op.create_index("ix_archived_file", "archived", ["file_id"])
    op.create_index("ix_archived_content_key", "archived", ["content_key"])
    op.create_table(
        "archived_items",
        sa.Column("run_id", sa.Integer(), sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("report_id", sa.String(length=200), sa.ForeignKey("archived.id"), nullable=False),
        sa.Column("cluster_id", sa.Integer(), sa.ForeignKey("clusters.id"), nullable=False),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "report_id"),
    )
    op.create_index("ix_archived_items_report", "archived_items", ["report_id"])
    op.create_table(
        "restored",
        sa.Column("report_id", sa.String(length=200), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index(
        "ix_reports_duplicate_of",
        "reports",
        ["duplicate_of"],
        sqlite_where=A_DUPLICATE,
        postgresql_where=A_DUPLICATE,
    )
