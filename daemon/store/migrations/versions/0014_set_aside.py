"""The weight of what was set aside in the reports of a lesson."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("lessons", sa.Column("review_weight", sa.Integer()))
    op.add_column("lessons", sa.Column("set_aside_from", sa.String(length=200)))
