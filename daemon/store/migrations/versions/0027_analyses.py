"""All analyses of a report, each with its author, and the generation that was asked last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.add_column("lessons", sa.Column("generation", sa.Integer()))
    op.add_column("lessons", sa.Column("analyses", sa.JSON()))
