"""Further answers of a run, the reports that it asked again, and two states: `improved` and `not-reproduced`.

They are states, not a column beside the state: lists, counts, metrics and filters go by the state already. SQLite
cannot change the constraint that names the states, and cannot make `reports` anew while other tables refer to it. So
the text of the constraint is edited in the schema, as https://sqlite.org/lang_altertable.html#otheralter describes; no
row can break a constraint that only allows more.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

OLD_STATES = (
    "queued",
    "reflecting",
    "lesson",
    "resolved",
    "recurring",
    "duplicate",
    "quarantined",
    "buried",
    "erased",
)
STATES = (*OLD_STATES[:5], "improved", "not-reproduced", *OLD_STATES[5:])
NEW: dict[str, tuple[str, ...]] = {
    "lesson": ("improved", "not-reproduced"),
    "resolved": ("improved",),
    "recurring": ("improved", "not-reproduced"),
    "improved": (
        "resolved",
        "recurring",
        "not-reproduced",
        "queued",
        "duplicate",
        "quarantined",
        "buried",
        "erased",
    ),
    "not-reproduced": ("lesson", "queued", "quarantined", "buried", "erased"),
}
TRAINABLE = sa.text("state IN ('lesson', 'recurring', 'improved', 'resolved')")


def upgrade() -> None:
    transitions = sa.table("transitions", sa.column("machine"), sa.column("old"), sa.column("new"))
    pairs = [(old, new) for old, news in NEW.items() for new in news]
    op.bulk_insert(transitions, [{"machine": "reports", "old": old, "new": new} for old, new in pairs])
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("ck_reports_state", "reports")
        op.create_check_constraint("ck_reports_state", "reports", sa.text(_one_of(STATES)))
        op.add_column("answers", sa.Column("sample", sa.Integer(), nullable=False, server_default="0"))
        op.drop_constraint("answers_pkey", "answers")
        op.create_primary_key("answers_pkey", "answers", KEY)
    else:
        _edit_sqlite_schema()
        for statement in _sqlite_triggers():
            op.execute(statement)
        _rebuild_answers()
    op.drop_index("ix_reports_trainable", "reports")
    op.create_index(
        "ix_reports_trainable",
        "reports",
        ["state", "principal", "reporter", "received_at", "id"],
        sqlite_where=TRAINABLE,
        postgresql_where=TRAINABLE,
    )
    op.create_table(
        "retests",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("report_id", sa.String(length=200), nullable=False),
        *(
            sa.Column(f"{side}_{count}", sa.Integer(), nullable=False)
            for side in ("before", "after")
            for count in ("passed", "answers")
        ),
        sa.Column("outcome", sa.String(length=20)),
        sa.PrimaryKeyConstraint("run_id", "report_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"]),
    )
    op.create_index("ix_retests_report", "retests", ["report_id", "run_id"])


KEY = ["run_id", "suite", "item_id", "arm", "guided", "sample"]


def _one_of(states: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{state}'" for state in states)
    return f"state IN ({listed})"


def _edit_sqlite_schema() -> None:
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :old, :new) "
            "WHERE type = 'table' AND name = 'reports' AND instr(sql, :old)"
        ),
        {"old": _one_of(OLD_STATES), "new": _one_of(STATES)},
    ).rowcount
    # another version makes every connection read the schema again
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    if changed != 1:
        raise RuntimeError("the constraint on the states of reports is not the one that erratad made")


def _sqlite_triggers() -> Iterator[str]:
    """Made anew with the new states: before SQLite 3.47, a trigger's message must be a literal."""
    yield "DROP TRIGGER reports_first_state"
    yield "DROP TRIGGER reports_transition"
    yield f"""
        CREATE TRIGGER reports_first_state BEFORE INSERT ON reports
        WHEN NOT EXISTS (SELECT 1 FROM transitions WHERE machine = 'reports' AND old = '' AND new = NEW.state)
        BEGIN
            SELECT CASE NEW.state
            {_arms((state, f"a new row of reports cannot be {state}") for state in STATES)}
            END;
        END"""  # noqa: S608 - every name is a literal of this file
    yield f"""
        CREATE TRIGGER reports_transition BEFORE UPDATE OF state ON reports
        WHEN OLD.state <> NEW.state AND NOT EXISTS (
            SELECT 1 FROM transitions WHERE machine = 'reports' AND old = OLD.state AND new = NEW.state
        )
        BEGIN
            SELECT CASE OLD.state || '>' || NEW.state
            {_arms((f"{a}>{b}", f"reports cannot go from {a} to {b}") for a in STATES for b in STATES if a != b)}
            END;
        END"""  # noqa: S608 - every name is a literal of this file


def _arms(cases: Iterator[tuple[str, str]]) -> str:
    arms = [f"WHEN '{case}' THEN RAISE(ABORT, 'illegal transition: {message}')" for case, message in cases]
    return "\n".join([*arms, "ELSE RAISE(ABORT, 'illegal transition: unknown state')"])


def _rebuild_answers() -> None:
    """SQLite cannot change a key: the table, to which no other refers, is made anew, with its rows."""
    columns = "run_id, suite, item_id, arm, guided, text, passed, margin, bits_per_token, cut"
    op.drop_index("ix_answers_item", "answers")
    op.rename_table("answers", "answers_before")
    op.create_table(
        "answers",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("suite", sa.String(length=40), nullable=False),
        sa.Column("item_id", sa.String(length=200), nullable=False),
        sa.Column("arm", sa.String(length=100), nullable=False),
        sa.Column("guided", sa.Boolean(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean()),
        sa.Column("margin", sa.Float()),
        sa.Column("bits_per_token", sa.Float()),
        sa.Column("cut", sa.Boolean()),
        sa.PrimaryKeyConstraint(*KEY),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"]),
    )
    op.execute(f"INSERT INTO answers ({columns}) SELECT {columns} FROM answers_before")  # noqa: S608 - literals
    op.drop_table("answers_before")
    op.create_index("ix_answers_item", "answers", ["item_id"])
