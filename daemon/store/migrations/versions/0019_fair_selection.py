"""An index for the choice of lessons by principal and reporter."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

TRAINABLE = sa.text("state IN ('lesson', 'recurring', 'resolved')")


def upgrade() -> None:
    op.create_index(
        "ix_reports_trainable",
        "reports",
        ["state", "principal", "reporter", "received_at", "id"],
        sqlite_where=TRAINABLE,
        postgresql_where=TRAINABLE,
    )
