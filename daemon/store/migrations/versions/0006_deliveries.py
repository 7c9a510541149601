"""What came of each event at sinks beside Kafka, and when events were put into the outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("created_at", sa.DateTime(timezone=True)))
    # how old the events before this revision are is not known; from now on they age like the others
    op.execute("UPDATE outbox SET created_at = CURRENT_TIMESTAMP")
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.String(length=200), nullable=False),
        sa.Column("sink", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["outbox.event_id"]),
        sa.PrimaryKeyConstraint("event_id", "sink"),
    )
