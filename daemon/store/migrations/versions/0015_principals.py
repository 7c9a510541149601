"""Who sent a report, under which id, and the evidence for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("reports", sa.Column("principal", sa.String(length=200), nullable=False, server_default="unknown"))
    op.add_column("reports", sa.Column("sent_id", sa.String(length=200), nullable=False, server_default="unknown"))
    op.add_column("reports", sa.Column("evidence", sa.String(length=20), nullable=False, server_default="claimed"))
    op.add_column("reports", sa.Column("evidence_detail", sa.Text()))
    op.add_column("reports", sa.Column("evidence_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE reports SET principal = channel, sent_id = id")
    op.create_index("uq_reports_sent", "reports", ["principal", "sent_id"], unique=True)
    op.create_index("ix_reports_principal", "reports", ["principal", "reporter", "received_at"])
