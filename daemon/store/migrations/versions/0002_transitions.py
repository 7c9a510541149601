"""Legal changes of state, enforced by triggers; and clusters that keep their split for ever.

The pairs mirror `daemon.records` as of this revision: a change there needs a revision that edits the table, and one
for a new state makes SQLite's triggers anew (its RAISE takes only literal messages before SQLite 3.47).
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NEW_ROW = ""
LEGAL: dict[str, dict[str, tuple[str, ...]]] = {
    "reports": {
        NEW_ROW: ("queued", "duplicate", "quarantined"),
        "queued": ("reflecting", "quarantined", "erased"),
        "reflecting": ("lesson", "queued", "buried", "quarantined", "erased"),
        "lesson": ("resolved", "recurring", "quarantined", "erased"),
        "resolved": ("recurring", "erased"),
        "recurring": ("resolved", "quarantined", "erased"),
        "duplicate": ("queued", "erased"),
        "quarantined": ("queued", "buried", "erased"),
        "buried": ("queued", "erased"),
        "erased": (),
    },
    "adapters": {
        NEW_ROW: ("training", "live"),
        "training": ("candidate", "failed"),
        "candidate": ("shadow", "canary", "live", "rejected", "failed"),
        "shadow": ("canary", "live", "rejected", "failed"),
        "canary": ("live", "rejected", "failed"),
        "live": ("retired", "rolled-back"),
        "retired": ("live",),
        "failed": (),
        "rejected": (),
        "rolled-back": (),
    },
    "runs": {
        NEW_ROW: ("preparing",),
        "preparing": ("training", "failed"),
        "training": ("evaluating", "failed"),
        "evaluating": ("promoting", "rejected", "failed"),
        "promoting": ("promoted", "rejected", "failed"),
        "promoted": (),
        "rejected": (),
        "failed": (),
    },
}


def upgrade() -> None:
    transitions = op.create_table(
        "transitions",
        sa.Column("machine", sa.String(length=20), nullable=False),
        sa.Column("old", sa.String(length=20), nullable=False),
        sa.Column("new", sa.String(length=20), nullable=False),
        sa.PrimaryKeyConstraint("machine", "old", "new"),
    )
    op.bulk_insert(
        transitions,
        [
            {"machine": machine, "old": old, "new": new}
            for machine, legal in LEGAL.items()
            for old, news in legal.items()
            for new in news
        ],
    )
    statements = _postgres() if op.get_bind().dialect.name == "postgresql" else _sqlite()
    for statement in statements:
        op.execute(statement)


def _postgres() -> Iterator[str]:
    yield """
        CREATE FUNCTION erratad_check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                IF NOT EXISTS (
                    SELECT FROM transitions t WHERE t.machine = TG_TABLE_NAME AND t.old = '' AND t.new = NEW.state
                ) THEN
                    RAISE EXCEPTION 'illegal transition: a new row of % cannot be %', TG_TABLE_NAME, NEW.state
                        USING ERRCODE = 'check_violation';
                END IF;
            ELSIF NOT EXISTS (
                SELECT FROM transitions t WHERE t.machine = TG_TABLE_NAME AND t.old = OLD.state AND t.new = NEW.state
            ) THEN
                RAISE EXCEPTION 'illegal transition: % cannot go from % to %', TG_TABLE_NAME, OLD.state, NEW.state
                    USING ERRCODE = 'check_violation';
            END IF;
            RETURN NEW;
        END $$"""
    for machine in LEGAL:
        yield f"""
            CREATE TRIGGER {machine}_first_state BEFORE INSERT ON {machine}
            FOR EACH ROW EXECUTE FUNCTION erratad_check_transition()"""
        yield f"""
            CREATE TRIGGER {machine}_transition BEFORE UPDATE OF state ON {machine}
            FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION erratad_check_transition()"""
    yield """
        CREATE FUNCTION erratad_keep_split() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'illegal transition: clusters keep their split, % cannot become %', OLD.split, NEW.split
                USING ERRCODE = 'check_violation';
        END $$"""
    yield """
        CREATE TRIGGER clusters_keep_split BEFORE UPDATE OF split ON clusters
        FOR EACH ROW WHEN (OLD.split <> NEW.split) EXECUTE FUNCTION erratad_keep_split()"""


def _sqlite() -> Iterator[str]:
    for machine, legal in LEGAL.items():
        states = [state for state in legal if state != NEW_ROW]
        yield f"""
            CREATE TRIGGER {machine}_first_state BEFORE INSERT ON {machine}
            WHEN NOT EXISTS (SELECT 1 FROM transitions WHERE machine = '{machine}' AND old = '' AND new = NEW.state)
            BEGIN
                SELECT CASE NEW.state
                {_arms((state, f"a new row of {machine} cannot be {state}") for state in states)}
                END;
            END"""  # noqa: S608 - every name is a literal of this file
        yield f"""
            CREATE TRIGGER {machine}_transition BEFORE UPDATE OF state ON {machine}
            WHEN OLD.state <> NEW.state AND NOT EXISTS (
                SELECT 1 FROM transitions WHERE machine = '{machine}' AND old = OLD.state AND new = NEW.state
            )
            BEGIN
                SELECT CASE OLD.state || '>' || NEW.state
                {_arms((f"{a}>{b}", f"{machine} cannot go from {a} to {b}") for a in states for b in states if a != b)}
                END;
            END"""  # noqa: S608 - every name is a literal of this file
    yield """
        CREATE TRIGGER clusters_keep_split BEFORE UPDATE OF split ON clusters WHEN OLD.split <> NEW.split
        BEGIN
            SELECT RAISE(ABORT, 'illegal transition: clusters keep their split');
        END"""


def _arms(cases: Iterator[tuple[str, str]]) -> str:
    arms = [f"WHEN '{case}' THEN RAISE(ABORT, 'illegal transition: {message}')" for case, message in cases]
    return "\n".join([*arms, "ELSE RAISE(ABORT, 'illegal transition: unknown state')"])
