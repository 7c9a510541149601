"""The severity of a report as a column, and indexes for listings by severity and by tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    op.add_column("reports", sa.Column("severity", sa.String(length=20), nullable=False, server_default="medium"))
    said = (
        "flagged->>'severity'" if op.get_bind().dialect.name == "postgresql" else "json_extract(flagged, '$.severity')"
    )
    op.execute(f"UPDATE reports SET severity = {said} WHERE {said} IN ('low', 'high')")  # noqa: S608 - literals
    for column in ("severity", "tenant"):
        op.create_index(f"ix_reports_{column}", "reports", [column, "received_at"])
