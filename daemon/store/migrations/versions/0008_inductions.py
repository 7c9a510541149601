"""Runs that ask for mistakes, and the operators' intent to start one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

KINDS = sa.text("kind IN ('train', 'promote', 'rollback', 'induce')")
ACTIVE = sa.text("finished_at IS NULL")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("ck_intents_kind", "intents")
        op.create_check_constraint("ck_intents_kind", "intents", KINDS)
    else:
        _rebuild_intents()
    op.create_table(
        "inductions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.String(length=20), nullable=False),
        sa.Column("requested_by", sa.String(length=200), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("kept", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("reason", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "uq_inductions_one_active",
        "inductions",
        [sa.text("(1)")],
        unique=True,
        sqlite_where=ACTIVE,
        postgresql_where=ACTIVE,
    )


def _rebuild_intents() -> None:
    """SQLite cannot change a constraint: the table is made anew, with its rows."""
    op.rename_table("intents", "intents_before")
    op.create_table(
        "intents",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("target_generation", sa.Integer()),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint(KINDS, name="ck_intents_kind"),
        sa.CheckConstraint("state IN ('pending', 'done', 'refused')", name="ck_intents_state"),
        sa.PrimaryKeyConstraint("id"),
    )
    columns = "id, kind, state, target_generation, actor, reason, outcome, created_at, finished_at"
    op.execute(f"INSERT INTO intents ({columns}) SELECT {columns} FROM intents_before")  # noqa: S608 - names from above
    op.drop_table("intents_before")
