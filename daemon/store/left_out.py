"""The account of the reports that runs left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, Engine, and_, exists, select, update

from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.store import rows, schema
from daemon.store.engine import insert, reading, transaction

MAX_DETAIL = 300
"""Characters kept of a detail: the texts of chat templates and servers may repeat a whole conversation."""
LATEST = 10
"""Runs shown per report."""


class LeftOutReports:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, found: Sequence[LeftOutReport]) -> None:
        """Store the account of a run. A report that is stored already for this run and stage keeps its reason."""
        with transaction(self._engine) as connection:
            record_left_out(connection, found)

    def of_run(self, run_id: int) -> list[LeftOutReport]:
        table = schema.left_out
        query = select(table).where(table.c.run_id == run_id).order_by(table.c.report_id, table.c.stage)
        with reading(self._engine) as connection:
            return [rows.record(LeftOutReport, row) for row in connection.execute(query)]

    def of_report(self, report_id: str) -> list[LeftOutReport]:
        """The latest runs first."""
        table = schema.left_out
        query = select(table).where(table.c.report_id == report_id).order_by(table.c.run_id.desc(), table.c.stage)
        with reading(self._engine) as connection:
            return [rows.record(LeftOutReport, row) for row in connection.execute(query.limit(LATEST))]

    def still(self, report_id: str) -> LeftOutReport | None:
        """Why the latest dataset that came to the report could not use it; None if it could, or none came to it."""
        table, items = schema.left_out, schema.run_items
        later = exists().where(and_(items.c.report_id == table.c.report_id, items.c.run_id > table.c.run_id))
        query = (
            select(table)
            .where(table.c.report_id == report_id, table.c.stage == LeftOutBy.DATASET, ~later)
            .order_by(table.c.run_id.desc())
            .limit(1)
        )
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else rows.record(LeftOutReport, row)


def record_left_out(connection: Connection, found: Sequence[LeftOutReport]) -> None:
    """Add to the account in the transaction of the change that it belongs to."""
    if found:
        values = [{**asdict(one), "detail": one.detail[:MAX_DETAIL]} for one in found]
        connection.execute(insert(connection, schema.left_out).on_conflict_do_nothing(), values)


def erase_details(connection: Connection, report_id: str) -> None:
    """Delete the texts about an erased report; the reasons stay."""
    connection.execute(update(schema.left_out).where(schema.left_out.c.report_id == report_id).values(detail=""))
