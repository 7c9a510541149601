"""Moves closed reports out of the database, in step with the files of `daemon.operations.archiving`, and back.

A file's row goes before the file and stays after it, so a crash leaves no file that is unknown. One transaction moves
the reports of a file: each report is in the database or in one file that the database names.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, LargeBinary, Table, func, select, update

from daemon.errors import ArchiveChangedError, ArchiveError, NotFoundError
from daemon.records import ACTOR, ReportState, utcnow
from daemon.store import closed, rows, schema
from daemon.store.adapters import live_row
from daemon.store.archive_tables import (
    IN_USE,
    ArchiveFile,
    FileState,
    archive_files,
    archived,
    archived_items,
    restored,
)
from daemon.store.audit import record_audit
from daemon.store.columns import UtcDateTime
from daemon.store.duplicates import batches
from daemon.store.engine import Lock, insert, reading, serialise, transaction
from daemon.store.originals import originals
from daemon.store.retests import undo_lost
from daemon.store.runs import REPORT_SUITES

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""The rows of a report by table, as JSON."""
_CHILDREN = {
    table: table.c.item_id if table is schema.answers else table.c.report_id
    for table in (schema.lessons, originals, schema.run_items, schema.left_out, schema.retests, schema.answers)
}
"""Tables with rows of a report, and the column with its id."""
_KEPT = ("id", "principal", "sent_id", "fingerprint", "content_key", "state", "received_at")
_WAYS = {
    ReportState.BURIED: (ReportState.REFLECTING,),
    ReportState.RESOLVED: (ReportState.REFLECTING, ReportState.LESSON),
    ReportState.NOT_REPRODUCED: (ReportState.REFLECTING, ReportState.LESSON),
}
"""The legal states between a new row and a closed one: a row that comes back goes through them in one transaction."""
MAX_PAGES = 20
"""Pages read for one file, where most closed reports are still needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The reports of the next file, all of one month. Without `place` the pass is over."""

    month: str
    ids: tuple[str, ...]
    place: closed.Place | None


class Archive:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def total(self) -> int:
        """The number of archived reports."""
        query = select(func.coalesce(func.sum(archive_files.c.reports), 0)).where(archive_files.c.state.in_(IN_USE))
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def last_at(self) -> datetime | None:
        """When the last file was written."""
        query = select(func.max(archive_files.c.created_at)).where(archive_files.c.state.in_(IN_USE))
        with reading(self._engine) as connection:
            return connection.execute(query).scalar()

    def files(self, *states: FileState) -> list[ArchiveFile]:
        """By month, oldest first. Without `states`: those with reports."""
        table = archive_files
        query = select(table).where(table.c.state.in_(states or IN_USE)).order_by(table.c.month, table.c.id)
        with reading(self._engine) as connection:
            return [rows.record(ArchiveFile, row) for row in connection.execute(query)]

    def file_of(self, report_id: str) -> ArchiveFile:
        """Raises NotFoundError: the report is not archived."""
        table = archive_files
        query = select(table).join(archived, archived.c.file_id == table.c.id).where(archived.c.id == report_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError(f"no report {report_id!r} is archived; `erratad archive list` shows the files")
        return rows.record(ArchiveFile, row)

    def holds(self, report_id: str) -> bool:
        with reading(self._engine) as connection:
            return connection.execute(select(archived.c.id).where(archived.c.id == report_id)).first() is not None

    def members(self, file_id: int) -> frozenset[str]:
        """The reports that are archived in the file."""
        with reading(self._engine) as connection:
            return frozenset(connection.execute(select(archived.c.id).where(archived.c.file_id == file_id)).scalars())

    def find(self, *, before: datetime, after: closed.Place | None, limit: int) -> Found:
        """Up to `limit` reports that nothing needs, with their duplicates beyond that."""
        month, place = "", after
        ids: list[str] = []
        with reading(self._engine) as connection:
            for _ in range(MAX_PAGES):
                found = closed.page(connection, before=before, after=place, limit=limit - len(ids))
                groups = closed.groups(connection, found, before=before)
                for row in found:
                    if row.id in groups and (month := month or _month(row)) != _month(row):
                        return Found(month=month, ids=tuple(ids), place=place)
                    place = closed.Place(state=row.state, received_at=row.received_at, id=row.id)
                    ids += [row.id, *groups[row.id]] if row.id in groups else []
                if not found or len(ids) >= limit:
                    break
        return Found(month=month, ids=tuple(ids), place=place if found else None)

    def rows(self, ids: Collection[str]) -> dict[str, Rows]:
        with reading(self._engine) as connection:
            return _rows(connection, ids)

    def begin(self, name: str, month: str) -> int:
        """Announce a file that will be written; returns its id."""
        values = {"name": name, "month": month, "state": FileState.WRITING, "reports": 0, "size_bytes": 0}
        with transaction(self._engine) as connection:
            statement = archive_files.insert().values(**values, partitions=[], created_at=utcnow())
            return int(connection.execute(statement.returning(archive_files.c.id)).scalar_one())

    def move(
        self, file_id: int, reports: Mapping[str, Rows], *, sha256: str, size_bytes: int, before: datetime
    ) -> None:
        """Delete the reports, which the file holds now.

        Raises:
            ArchiveChangedError: One of them changed, is needed again, or a run chooses its reports. Nothing was moved.
        """
        with transaction(self._engine) as connection:
            serialise(connection, Lock.RUNS)
            _lock(connection, reports)
            if closed.is_preparing(connection):
                raise ArchiveChangedError("a run chooses its reports; the archive waits")
            groups = closed.groups(connection, closed.of_ids(connection, reports), before=before)
            free = {one for first, others in groups.items() for one in (first, *others)}
            if free != set(reports) or _rows(connection, reports) != reports:
                raise ArchiveChangedError("a report changed while it was written to the archive; it is looked at again")
            mains = [_decoded(schema.reports, one["reports"][0]) for one in reports.values()]
            offsets = [row for row in mains if row["kafka_partition"] is not None]
            places = sorted({(row["channel"], row["kafka_partition"]) for row in offsets})
            self._finish(connection, file_id, sha256=sha256, size_bytes=size_bytes, count=len(reports), places=places)
            kept = [{**{name: row[name] for name in _KEPT}, "file_id": file_id} for row in mains]
            connection.execute(archived.insert(), kept)
            if items := [_decoded(archived_items, row) for one in reports.values() for row in one["run_items"]]:
                connection.execute(archived_items.insert(), items)
            _delete(connection, mains)
            record_audit(
                connection, actor=ACTOR, action="archive", subject=f"{len(reports)} reports", reason="closed and old"
            )

    def restore(
        self, file_id: int, reports: Mapping[str, Rows], *, actor: str, reason: str, undo: bool = True
    ) -> list[str]:
        """Put those of the reports back that are archived in this file; returns their ids.

        Args:
            undo: Reports that a generation fixed which is no longer live are opened again, as a rollback does.
        """
        with transaction(self._engine) as connection:
            serialise(connection, Lock.INTAKE)  # a redelivery that comes now finds the report here or there
            query = select(archived.c.id).where(archived.c.file_id == file_id).with_for_update()
            here = set(connection.execute(query).scalars())
            ids = [one for one in reports if one in here]
            for some in batches(ids):
                connection.execute(archived_items.delete().where(archived_items.c.report_id.in_(some)))
                connection.execute(archived.delete().where(archived.c.id.in_(some)))
            _insert(connection, [reports[one] for one in ids])
            if ids:
                table = archive_files
                change = {"state": FileState.STALE, "reports": table.c.reports - len(ids)}
                connection.execute(update(table).where(table.c.id == file_id).values(**change))
                now = utcnow()
                connection.execute(
                    insert(connection, restored).on_conflict_do_nothing(),
                    [{"report_id": one, "at": now} for one in ids],
                )
                record_audit(connection, actor=actor, action="restore", subject=f"{len(ids)} reports", reason=reason)
                if undo:
                    undo_lost(connection, ids, live=live_row(connection).generation)
        return ids

    def replace(self, old: int, new: int, ids: Collection[str], *, sha256: str, size_bytes: int) -> None:
        """The new file has exactly the archived reports of the old one, which can be deleted now.

        Raises:
            ArchiveChangedError: Another one came back meanwhile. Nothing was changed.
        """
        with transaction(self._engine) as connection:
            query = select(archived.c.id).where(archived.c.file_id == old).with_for_update()
            if set(connection.execute(query).scalars()) != set(ids):
                raise ArchiveChangedError("a report came back while its file was written anew")
            places = connection.execute(
                select(archive_files.c.partitions).where(archive_files.c.id == old)
            ).scalar_one()
            self._finish(connection, new, sha256=sha256, size_bytes=size_bytes, count=len(ids), places=places)
            connection.execute(update(archived).where(archived.c.file_id == old).values(file_id=new))
            _set(connection, old, FileState.STALE, FileState.REMOVED)

    def give_up(self, file_id: int) -> bool:
        """The file may be deleted: it was not finished, or no report is in it. False if it is in use."""
        with transaction(self._engine) as connection:
            if _set(connection, file_id, FileState.WRITING, FileState.REMOVED):
                return True
            empty = connection.execute(select(archived.c.id).where(archived.c.file_id == file_id)).first() is None
            return empty and _set(connection, file_id, FileState.STALE, FileState.REMOVED)

    def forget(self, file_id: int) -> None:
        """The file is deleted."""
        gone = (archive_files.c.id == file_id, archive_files.c.state == FileState.REMOVED)
        with transaction(self._engine) as connection:
            connection.execute(archive_files.delete().where(*gone))

    def _finish(
        self, connection: Connection, file_id: int, *, sha256: str, size_bytes: int, count: int, places: Sequence[Any]
    ) -> None:
        table = archive_files
        values = {"sha256": sha256, "size_bytes": size_bytes, "reports": count, "partitions": list(map(list, places))}
        unfinished = (table.c.id == file_id, table.c.state == FileState.WRITING)
        change = update(table).where(*unfinished).values(state=FileState.KEPT, **values)
        if not connection.execute(change).rowcount:
            raise ArchiveError("another process gave up the file meanwhile; nothing was moved")


def _set(connection: Connection, file_id: int, old: FileState, new: FileState) -> bool:
    table = archive_files
    change = update(table).where(table.c.id == file_id, table.c.state == old).values(state=new)
    return connection.execute(change).rowcount > 0


def _month(row: Any) -> str:
    return f"{row.received_at:%Y-%m}"


def _lock(connection: Connection, ids: Collection[str]) -> None:
    column = schema.reports.c.id
    for some in batches(sorted(ids)):
        connection.execute(select(column).where(column.in_(some)).order_by(column).with_for_update()).all()


def _rows(connection: Connection, ids: Collection[str]) -> dict[str, Rows]:
    found: dict[str, defaultdict[str, list[dict[str, Any]]]] = {one: defaultdict(list) for one in sorted(ids)}
    tables = {schema.reports: schema.reports.c.id, **_CHILDREN}
    for table, column in tables.items():
        query = select(table).order_by(*table.primary_key.columns)
        if table is schema.answers:
            query = query.where(table.c.suite.in_(REPORT_SUITES))
        for some in batches(list(found)):
            for row in connection.execute(query.where(column.in_(some))):
                encoded = {name: _encoded(value) for name, value in row._asdict().items()}
                found[encoded[column.name]][table.name].append(encoded)
    return {one: {table.name: tables_of[table.name] for table in tables} for one, tables_of in found.items()}


def _encoded(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _decoded(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(table, name, value) for name, value in row.items()}


def _value(table: Table, name: str, value: Any) -> Any:
    if value is None:
        return None
    kind = table.c[name].type
    if isinstance(kind, UtcDateTime):
        return datetime.fromisoformat(value)
    return base64.b64decode(value) if isinstance(kind, LargeBinary) else value


def _delete(connection: Connection, mains: Sequence[Mapping[str, Any]]) -> None:
    """Duplicates first: they refer to the others."""
    ordered = [row["id"] for row in sorted(mains, key=lambda row: row["duplicate_of"] is None)]
    for some in batches(ordered):
        for table, column in _CHILDREN.items():
            gone = table.delete().where(column.in_(some))
            connection.execute(gone.where(table.c.suite.in_(REPORT_SUITES)) if table is schema.answers else gone)
        connection.execute(restored.delete().where(restored.c.report_id.in_(some)))
        connection.execute(schema.reports.delete().where(schema.reports.c.id.in_(some)))


def _insert(connection: Connection, reports: Sequence[Rows]) -> None:
    """Through legal states only: the database refuses a new row that is closed."""
    table = schema.reports
    mains = [_decoded(table, one["reports"][0]) for one in reports]
    new = [
        row if row["duplicate_of"] else {**row, "state": ReportState.QUEUED}
        for row in sorted(mains, key=lambda row: row["duplicate_of"] is not None)
    ]
    for values in batches(new):
        connection.execute(table.insert(), list(values))
    for state, way in _WAYS.items():
        for some in batches([row["id"] for row in mains if row["state"] == state]):
            for step in (*way, state):
                lease = utcnow() if step is ReportState.REFLECTING else None
                connection.execute(update(table).where(table.c.id.in_(some)).values(state=step, lease_until=lease))
    for child in _CHILDREN:
        if values := [_decoded(child, row) for one in reports for row in one[child.name]]:
            connection.execute(child.insert(), values)
