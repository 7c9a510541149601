"""Erasures of reports: by whom, with which certificate, and which adapters were trained on what is erased."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Engine,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    Select,
    String,
    Table,
    exists,
    select,
    update,
)

from daemon.errors import NotFoundError
from daemon.records import Adapter, AdapterState, AfterErasure, Erasure, Split, utcnow
from daemon.store import rows, schema
from daemon.store.columns import OneOf, UtcDateTime
from daemon.store.engine import insert, purge, reading, transaction
from daemon.store.schema import metadata

erasures = Table(
    "erasures",
    metadata,
    Column("report_id", String(200), ForeignKey("reports.id"), primary_key=True),
    Column("erased_at", UtcDateTime, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("after", OneOf(AfterErasure), nullable=False),
    Column("certificate", JSON),
)
erased_lessons = Table(
    "erased_lessons",
    metadata,
    Column("erasure", String(200), ForeignKey("erasures.report_id"), nullable=False),
    Column("report_id", String(200), ForeignKey("reports.id"), nullable=False),
    PrimaryKeyConstraint("erasure", "report_id"),
    Index("ix_erased_lessons_report", "report_id"),
)
"""The reports whose lesson held erased text: the erased one, and the one of whose answer it was a duplicate."""


class Erasures:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, report_id: str) -> Erasure:
        """Raises NotFoundError if the report was not erased."""
        with reading(self._engine) as connection:
            row = connection.execute(select(erasures).where(erasures.c.report_id == report_id)).one_or_none()
            if row is None:
                raise NotFoundError(f"report {report_id!r} was not erased, or before certificates were written")
            return rows.record(Erasure, row, lessons=_lessons(connection, report_id))

    def certify(self, report_id: str, certificate: Mapping[str, Any]) -> None:
        """Keep the certificate in place of an earlier one."""
        with transaction(self._engine) as connection:
            connection.execute(
                update(erasures).where(erasures.c.report_id == report_id).values(certificate=dict(certificate))
            )

    def purge(self) -> bool:
        """Remove what the erased rows left behind in the database's files; see `engine.purge`."""
        return purge(self._engine, list(metadata.tables.values()))

    def adapters(self, report_id: str) -> list[Adapter]:
        """The adapters that were trained on what is erased, oldest first."""
        return self._adapters(erasures.c.report_id == report_id)

    def marked(self) -> dict[int, list[str]]:
        """The erased reports behind each adapter that was trained on them, by generation."""
        query = _trained().with_only_columns(schema.adapters.c.generation, erasures.c.report_id)
        found: dict[int, list[str]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(query.order_by(erasures.c.report_id)):
                found.setdefault(row.generation, []).append(row.report_id)
        return found

    def withdrawn(self) -> list[Adapter]:
        """The adapters with files that may not be used again, newest first; the live one waits for its successor."""
        files = schema.adapters.c.files_removed_at.is_(None), schema.adapters.c.path.is_not(None)
        return self._adapters(erasures.c.after != AfterErasure.KEEP, *files)[::-1]

    def untouched_target(self) -> Adapter | None:
        """The newest retired generation with files that was trained on nothing erased."""
        with reading(self._engine) as connection:
            row = connection.execute(retired().limit(1)).one_or_none()
        return None if row is None else rows.record(Adapter, row)

    def _adapters(self, *conditions: ColumnElement[bool]) -> list[Adapter]:
        query = _trained().with_only_columns(schema.adapters).where(*conditions).distinct()
        with reading(self._engine) as connection:
            found = connection.execute(query.order_by(schema.adapters.c.generation))
            return [rows.record(Adapter, row) for row in found]


def record_erasure(
    connection: Connection, report_id: str, lessons: Collection[str], *, actor: str, after: AfterErasure
) -> None:
    """In the transaction that erases the report."""
    values = {"report_id": report_id, "erased_at": utcnow(), "actor": actor, "after": after}
    connection.execute(insert(connection, erasures).values(**values).on_conflict_do_nothing())
    pairs = [{"erasure": report_id, "report_id": one} for one in lessons]
    connection.execute(insert(connection, erased_lessons).on_conflict_do_nothing(), pairs)


def retired() -> Select[Any]:
    """The retired generations that may be used again, the last one first."""
    table = schema.adapters
    usable = table.c.state == AdapterState.RETIRED, table.c.files_removed_at.is_(None), ~is_withdrawn()
    return select(table).where(*usable).order_by(table.c.retired_at.desc(), table.c.generation.desc())


def is_withdrawn() -> ColumnElement[bool]:
    """Whether an adapter was trained on erased reports and, by `privacy.after_erasure`, may not go live again."""
    runs, adapters = schema.runs, schema.adapters
    found = _with_erasures(select(runs.c.id).select_from(runs))
    return exists(
        found.where(runs.c.id == adapters.c.run_id, erasures.c.after != AfterErasure.KEEP).correlate(adapters)
    )


def _trained() -> Select[Any]:
    """Adapters joined with the erasures whose text was in their training set."""
    return _with_erasures(select(schema.adapters).join(schema.runs, schema.runs.c.id == schema.adapters.c.run_id))


def _with_erasures(query: Select[Any]) -> Select[Any]:
    """A query of runs, joined with the erasures whose text was in their training set."""
    items, runs = schema.run_items, schema.runs
    return (
        query.join(items, items.c.run_id == runs.c.id)
        .join(erased_lessons, erased_lessons.c.report_id == items.c.report_id)
        .join(erasures, erasures.c.report_id == erased_lessons.c.erasure)
        .where(items.c.role == Split.TRAIN, runs.c.created_at < erasures.c.erased_at)
    )


def _lessons(connection: Connection, report_id: str) -> tuple[str, ...]:
    query = select(erased_lessons.c.report_id).where(erased_lessons.c.erasure == report_id)
    return tuple(connection.execute(query.order_by(erased_lessons.c.report_id)).scalars())
