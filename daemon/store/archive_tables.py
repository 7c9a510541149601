"""What the database keeps of archived reports: where each one is, what a redelivery is known by, and its lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    select,
)

from daemon.errors import NotFoundError
from daemon.records import ReportState, Split
from daemon.store.columns import OneOf, UtcDateTime
from daemon.store.schema import metadata


class FileState(StrEnum):
    """A file is on the disk before its row is `kept`, and until its row, which is `removed`, is deleted."""

    WRITING = "writing"
    """Its reports are still in the database."""
    KEPT = "kept"
    STALE = "stale"
    """It holds reports that are back in the database; it must be written without them."""
    REMOVED = "removed"


IN_USE = (FileState.KEPT, FileState.STALE)

archive_files = Table(
    "archive_files",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("month", String(7), nullable=False),
    Column("state", OneOf(FileState), nullable=False),
    Column("reports", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64)),
    Column("partitions", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
"""`name` is relative to the archive's folder. `reports`: how many of the file are archived now."""

archived = Table(
    "archived",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("file_id", Integer, ForeignKey("archive_files.id"), nullable=False),
    Column("principal", String(200), nullable=False),
    Column("sent_id", String(200), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("content_key", String(64), nullable=False),
    Column("state", OneOf(ReportState), nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Index("uq_archived_sent", "principal", "sent_id", unique=True),
    Index("ix_archived_file", "file_id"),
    Index("ix_archived_content_key", "content_key"),
)

archived_items = Table(
    "archived_items",
    metadata,
    Column("run_id", Integer, ForeignKey("runs.id"), nullable=False),
    Column("report_id", String(200), ForeignKey("archived.id"), nullable=False),
    Column("cluster_id", Integer, ForeignKey("clusters.id"), nullable=False),
    Column("role", OneOf(Split, 10), nullable=False),
    PrimaryKeyConstraint("run_id", "report_id"),
    Index("ix_archived_items_report", "report_id"),
)
"""The rows of `run_items` of archived reports: the lineage of weights stays in the database."""

restored = Table(
    "restored",
    metadata,
    Column("report_id", String(200), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)
"""Reports that came back. They are not archived again for as long as new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    id: int
    name: str
    month: str
    """The month (UTC) in which its reports came, such as "2026-03"."""
    state: FileState
    reports: int
    size_bytes: int
    sha256: str | None
    created_at: datetime


def unknown(connection: Connection, wanted: Mapping[str, str], text: str) -> NotFoundError:
    """The error about a report that is not in the database: it says so if the report is archived."""
    query = select(archived.c.id, archive_files.c.name).select_from(archived).join(archive_files)
    row = connection.execute(query.where(*(archived.c[name] == value for name, value in wanted.items()))).first()
    if row is None:
        return NotFoundError(text)
    back = f"`erratad archive restore --report {row.id}` brings it back"
    return NotFoundError(f"report {row.id!r} is archived in {row.name}; {back}")
