"""Whether a judge prefers a correction to the flagged answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("lessons", sa.Column("judged_better", sa.Boolean()))
