"""Reviewers: who looked at a lesson, and the ways back from it (a new analysis, or none)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NOW_LEGAL = (("lesson", "queued"), ("lesson", "buried"), ("recurring", "queued"), ("recurring", "buried"))


def upgrade() -> None:
    op.add_column("lessons", sa.Column("reviewed_by", sa.String(length=200)))
    op.add_column("lessons", sa.Column("reviewed_at", sa.DateTime(timezone=True)))
    transitions = sa.table("transitions", sa.column("machine"), sa.column("old"), sa.column("new"))
    op.bulk_insert(transitions, [{"machine": "reports", "old": old, "new": new} for old, new in NOW_LEGAL])
