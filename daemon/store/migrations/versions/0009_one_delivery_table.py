"""One account of deliveries for every sink: a row per event and sink, instead of `outbox.published_at` for Kafka."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

HAS_ERROR = sa.text("error IS NOT NULL")
EVENT_TYPE = {"sqlite": "json_extract(outbox.event, '$.type')", "postgresql": "outbox.event ->> 'type'"}


def upgrade() -> None:
    op.execute("CREATE TABLE deliveries_before AS SELECT * FROM deliveries")
    op.drop_table("deliveries")
    op.create_table(
        "deliveries",
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("sink", sa.String(length=20), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["sequence"], ["outbox.sequence"]),
        sa.PrimaryKeyConstraint("sequence", "sink"),
    )
    _copy()
    op.drop_table("deliveries_before")
    op.create_index("ix_deliveries_due", "deliveries", ["sink", "state", "sequence"])
    op.create_index("ix_deliveries_type", "deliveries", ["sink", "state", "type", "sequence"])
    op.create_index(
        "ix_deliveries_error",
        "deliveries",
        ["sink", "updated_at"],
        sqlite_where=HAS_ERROR,
        postgresql_where=HAS_ERROR,
    )
    op.drop_index("ix_outbox_unpublished", "outbox")
    op.drop_column("outbox", "published_at")


def _copy() -> None:
    """An event without a row was never tried at the webhook: it still waits."""
    kind = EVENT_TYPE[op.get_bind().dialect.name]
    op.execute(
        "INSERT INTO deliveries (sequence, sink, type, state, attempts, updated_at) "  # noqa: S608 - parts from above
        f"SELECT sequence, 'kafka', {kind}, CASE WHEN published_at IS NULL THEN 'waiting' ELSE 'delivered' END, "
        "CASE WHEN published_at IS NULL THEN 0 ELSE 1 END, COALESCE(published_at, created_at, CURRENT_TIMESTAMP) "
        "FROM outbox"
    )
    op.execute(
        "INSERT INTO deliveries (sequence, sink, type, state, attempts, next_attempt_at, error, updated_at) "  # noqa: S608
        f"SELECT outbox.sequence, 'webhook', {kind}, COALESCE(old.state, 'waiting'), COALESCE(old.attempts, 0), "
        "old.next_attempt_at, old.error, COALESCE(old.updated_at, outbox.created_at, CURRENT_TIMESTAMP) "
        "FROM outbox LEFT JOIN deliveries_before AS old ON old.event_id = outbox.event_id AND old.sink = 'webhook'"
    )
