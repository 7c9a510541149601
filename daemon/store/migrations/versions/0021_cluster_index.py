"""An index for the reports of a cluster: whose reports support each other is asked per cluster."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_index("ix_reports_cluster", "reports", ["cluster_id"])
