"""The term of a leadership: what a leader writes names its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    op.add_column("leases", sa.Column("term", sa.BigInteger(), nullable=False, server_default="0"))
