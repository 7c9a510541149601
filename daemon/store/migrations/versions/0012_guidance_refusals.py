"""Requests under the alias that were refused only because of the guidance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    for table in ("traffic", "traffic_seen"):
        op.add_column(table, sa.Column("guidance_refusals", sa.BigInteger(), nullable=False, server_default="0"))
