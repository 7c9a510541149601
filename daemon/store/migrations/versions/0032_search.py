"""An index for searches: parts of three characters of every text of a report.

`report_texts` numbers the reports in the order in which they came, and says which of them the index has. A new or
changed text waits there until the daemon takes it in, so neither intake nor this migration pays for the index. SQLite
keeps it in `report_index` (FTS5, without the texts themselves); PostgreSQL in the column `grams` (GIN).
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    is_postgres = op.get_bind().dialect.name == "postgresql"
    op.create_table(
        "report_texts",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("report_id", sa.String(length=200), sa.ForeignKey("reports.id", ondelete="CASCADE"), nullable=False),
        sa.Column("indexed_at", sa.DateTime(timezone=True)),
        sa.Column("grams", postgresql.ARRAY(sa.Text()).with_variant(sa.Text(), "sqlite")),
    )
    op.execute("INSERT INTO report_texts (report_id) SELECT id FROM reports ORDER BY received_at, id")
    op.create_index("uq_report_texts_report", "report_texts", ["report_id"], unique=True)
    waits, has_grams = sa.text("indexed_at IS NULL"), sa.text("grams IS NOT NULL")
    op.create_index("ix_report_texts_waiting", "report_texts", ["number"], sqlite_where=waits, postgresql_where=waits)
    op.create_index("ix_report_texts_grams", "report_texts", ["grams"], postgresql_using="gin", sqlite_where=has_grams)
    for statement in _postgres() if is_postgres else _sqlite():
        op.execute(sa.text(statement.replace(":", r"\:")))


def _sqlite() -> Iterator[str]:
    yield "CREATE VIRTUAL TABLE report_index USING fts5(text, content='', detail=none, tokenize='trigram')"
    yield "CREATE VIRTUAL TABLE report_index_terms USING fts5vocab(report_index, row)"
    # two more characters at the end: the last one begins a part of three, too
    yield """
        CREATE VIEW report_plain AS
        SELECT number, concat_text || char(10, 10) AS text FROM (
            SELECT t.number, r.id || char(10) || r.sent_id || char(10)
                || coalesce((SELECT group_concat(atom, char(10)) FROM json_tree(r.flagged) WHERE atom IS NOT NULL), '')
                || char(10) || coalesce((
                    SELECT group_concat(key, char(10)) FROM json_tree(r.flagged, '$.metadata')
                    WHERE typeof(key) = 'text' AND key <> 'metadata'
                ), '') AS concat_text
            FROM report_texts t JOIN reports r ON r.id = t.report_id
        )"""
    yield """
        CREATE TRIGGER report_texts_in AFTER UPDATE OF indexed_at ON report_texts
        WHEN OLD.indexed_at IS NULL AND NEW.indexed_at IS NOT NULL
        BEGIN
            INSERT INTO report_index (rowid, text) SELECT number, text FROM report_plain WHERE number = NEW.number;
        END"""
    yield """
        CREATE TRIGGER report_texts_out BEFORE UPDATE OF indexed_at ON report_texts
        WHEN OLD.indexed_at IS NOT NULL AND NEW.indexed_at IS NULL
        BEGIN
            INSERT INTO report_index (report_index, rowid, text)
            SELECT 'delete', number, text FROM report_plain WHERE number = OLD.number;
        END"""
    yield """
        CREATE TRIGGER reports_texts_new AFTER INSERT ON reports
        BEGIN INSERT INTO report_texts (report_id) VALUES (NEW.id); END"""
    yield """
        CREATE TRIGGER reports_texts_changed BEFORE UPDATE OF flagged ON reports WHEN OLD.flagged <> NEW.flagged
        BEGIN UPDATE report_texts SET indexed_at = NULL WHERE report_id = OLD.id; END"""
    yield """
        CREATE TRIGGER reports_texts_gone BEFORE DELETE ON reports
        BEGIN UPDATE report_texts SET indexed_at = NULL WHERE report_id = OLD.id; END"""


def _postgres() -> Iterator[str]:
    yield """
        CREATE FUNCTION erratad_note_text() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO report_texts (report_id) VALUES (NEW.id);
            ELSE
                UPDATE report_texts SET indexed_at = NULL, grams = NULL WHERE report_id = NEW.id;
            END IF;
            RETURN NULL;
        END $$"""
    yield """
        CREATE TRIGGER reports_texts_new AFTER INSERT ON reports
        FOR EACH ROW EXECUTE FUNCTION erratad_note_text()"""
    yield """
        CREATE TRIGGER reports_texts_changed AFTER UPDATE OF flagged ON reports
        FOR EACH ROW WHEN (OLD.flagged::text <> NEW.flagged::text) EXECUTE FUNCTION erratad_note_text()"""
