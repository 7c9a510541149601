"""When the files of an adapter were removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("adapters", sa.Column("files_removed_at", sa.DateTime(timezone=True)))
