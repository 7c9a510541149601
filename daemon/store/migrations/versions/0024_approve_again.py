"""A person may approve a rolled-back generation again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    transitions = sa.table("transitions", sa.column("machine"), sa.column("old"), sa.column("new"))
    op.bulk_insert(transitions, [{"machine": "adapters", "old": "rolled-back", "new": "retired"}])
