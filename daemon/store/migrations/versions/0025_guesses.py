"""The guessed kind of a report that names no category, and who guessed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("reports", sa.Column("guessed_kind", sa.String(length=20)))
    op.add_column("reports", sa.Column("guessed_by", sa.String(length=200)))
