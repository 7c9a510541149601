"""Connections, and the two kinds of transaction. A lost database becomes `StoreUnavailableError` here."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, func, make_url, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from daemon.errors import ConfigError, IllegalTransitionError, StoreDamagedError, StoreUnavailableError
from daemon.records import utcnow
from daemon.store.commits import Commits
from daemon.store.terms import require_term

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

POOL_SIZE = 10
"""Connections kept open; the pool may double under load. The stages of one daemon need about ten."""
POOL_TIMEOUT_S = 30
SQLITE_BUSY_TIMEOUT_S = 30
"""How long a writer waits for the previous writer."""
LOG_TIMEOUT_S = 10.0
"""How long `purge` waits for the readers of SQLite's write-ahead log."""
MERGED_PAGES = 500
"""Pages of the search index that `purge` merges in one transaction."""
POSTGRES_SESSION = "-c lock_timeout=30s -c statement_timeout=60s"
POSTGRES_CONNECTION: Mapping[str, str] = {
    "application_name": "erratad",
    "connect_timeout": "5",
    # detects within half a minute, also during a query, that the server vanished
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
ILLEGAL = "illegal transition: "
"""The prefix of the messages of the database's own triggers."""

_READING = "erratad_reading"
_COMMITS = "erratad_commits"
_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_SQLITE_DAMAGE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


class Lock(IntEnum):
    """Keys of PostgreSQL's advisory locks; "erra" in hexadecimal keeps them apart from other programs' keys."""

    MIGRATION = 0x65727261_0001
    INTAKE = 0x65727261_0002
    RUNS = 0x65727261_0003
    LIVE = 0x65727261_0004
    TRAFFIC = 0x65727261_0005


def connect(url: str, password: str | None = None, *, silent_s: float = 60.0) -> Engine:
    """Make an engine for SQLite (WAL, full durability) or PostgreSQL (psycopg 3). It connects at its first use.

    Args:
        silent_s: PostgreSQL ends a transaction whose daemon sends nothing for this long, so that a daemon that was
            stopped or cut off keeps its locks no longer.

    Raises:
        ConfigError: The URL is neither.
        StoreUnavailableError: The folder of an SQLite file cannot be created.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError("store.url is not a database URL; write e.g. postgresql://user@host:5432/erratad") from exc
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        engine = _postgres(parsed if password is None else parsed.set(password=password), silent_s=silent_s)
    elif backend == "sqlite":
        engine = _sqlite(parsed)
    else:
        raise ConfigError(f"store.url: {backend} is not supported; use sqlite:///... or postgresql://...")
    engine.update_execution_options(**{_COMMITS: Commits()})
    return engine


def commits_of(engine: Engine) -> Commits:
    """The commits that this process makes through the engine."""
    commits: Commits = engine.get_execution_options()[_COMMITS]
    return commits


def _postgres(url: URL, *, silent_s: float) -> Engine:
    # parameters of the URL override our defaults
    settings = {key: value for key, value in POSTGRES_CONNECTION.items() if key not in url.query}
    own = url.query.get("options", "")
    silent = f"-c idle_in_transaction_session_timeout={round(silent_s * 1000)}"
    options = " ".join([POSTGRES_SESSION, silent, own if isinstance(own, str) else " ".join(own)])
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_use_lifo=True,  # the connections that a quiet daemon does not need stay cold
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=POOL_TIMEOUT_S,
        json_serializer=_to_json,
        hide_parameters=True,  # an error's text goes to logs: no report's content in it
        connect_args={**settings, "options": options},
    )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigError("store.url: an in-memory database loses everything; name a file, sqlite:////path/to/file")
    folder = Path(url.database).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreUnavailableError(f"cannot make the database's folder {folder}: {exc.strerror}") from exc
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,  # the same connection again: its page cache is warm
        json_serializer=_to_json,
        hide_parameters=True,  # an error's text goes to logs: no report's content in it
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
        # secure_delete: deleted and replaced texts are overwritten with zeros
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE: two writers queue instead of one failing at its first write
        reads = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _to_json(value: Any) -> str:
    """NaN and infinity become null: JSON has neither, and PostgreSQL refuses them."""
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):  # TypeError: a mapping that is no dict
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def transaction(engine: Engine, *, makes_work: bool = True) -> Iterator[Connection]:
    """One transaction that may write. On SQLite it waits for the previous writer.

    `makes_work`: whether a stage may have work after it; all are woken then.

    Raises:
        StoreUnavailableError: The database cannot be reached. Nothing was changed, unless the connection broke during
        the
            COMMIT itself; every operation of the store may be repeated.
        IllegalTransitionError: The database itself refused a change of state.
        NotLeadingError: It belongs to a leader's work, and another daemon leads now. Nothing was changed.
    """
    with _translated(), engine.begin() as connection:
        require_term(connection)
        yield connection
    if makes_work:
        commits_of(engine).note()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads. It waits for no writer, and no writer waits for it.

    Raises:
        StoreUnavailableError: The database cannot be reached.
    """
    with _translated(), engine.connect() as plain:
        connection = plain.execution_options(**{_READING: True}, postgresql_readonly=True)
        with connection.begin():
            yield connection


def purge(engine: Engine, tables: Sequence[Table]) -> bool:
    """Remove what deleted and replaced rows left behind in the database's files.

    SQLite: rewrite the file and empty its write-ahead log; False if a long reader prevents the latter. PostgreSQL:
    vacuum the tables; freed pages keep their bytes until they are used again, and so do the server's log and backups.

    Raises:
        StoreUnavailableError: The database does not answer, or another writer holds it for too long.
    """
    with _translated():
        if engine.dialect.name == "sqlite":
            with closing(engine.raw_connection()) as plain:
                cursor = plain.cursor()
                _merge_search_index(cursor)
                cursor.execute("VACUUM")
                return _empty_log(cursor)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            for table in tables:
                connection.exec_driver_sql(f"VACUUM {table.name}")
            connection.exec_driver_sql("RESET statement_timeout")
    return True


def _merge_search_index(cursor: Any) -> None:
    """FTS5 keeps what was taken out of it until its parts are merged: in steps, so that writers wait for none long."""
    pages = -MERGED_PAGES  # negative: all parts into one
    while True:
        before = cursor.connection.total_changes
        cursor.execute("INSERT INTO report_index (report_index, rank) VALUES ('merge', ?)", (pages,))
        if cursor.connection.total_changes - before < 2:  # as SQLite's manual says: nothing is left to merge
            return
        pages = MERGED_PAGES


def _empty_log(cursor: Any) -> bool:
    """Readers that began before must end first."""
    deadline = time.monotonic() + LOG_TIMEOUT_S
    while cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def serialise(connection: Connection, lock: Lock) -> None:
    """Let only one transaction at a time pass this point until it ends. SQLite's writers queue anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(lock))))


def database_time(connection: Connection) -> datetime:
    """The time for leases, from the database server, because the daemons' clocks may differ."""
    if connection.dialect.name == "postgresql":
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment
    return utcnow()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as exc:
        raise StoreUnavailableError(
            f"no database connection became free in {POOL_TIMEOUT_S} s; a daemon tries again"
        ) from exc
    except IntegrityError as exc:
        message = str(exc.orig).partition("\n")[0]
        if message.startswith(ILLEGAL):
            raise IllegalTransitionError(message) from exc
        raise
    except DBAPIError as exc:
        reason = str(exc.orig).partition("\n")[0]
        if getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_DAMAGE:
            raise StoreDamagedError(
                f"the SQLite file of store.url cannot be read: {reason}; name another one, or restore a backup"
            ) from exc
        if not _is_outage(exc):
            raise
        raise StoreUnavailableError(f"the database does not answer: {reason}; a daemon tries again") from exc


def _is_outage(exc: DBAPIError) -> bool:
    """True if the same statement may succeed later. SQLite also reports a missing table as an OperationalError."""
    if isinstance(exc.orig, sqlite3.Error):
        return getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUTAGES
    return exc.connection_invalidated or isinstance(exc, OperationalError | InterfaceError)


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """INSERT with the ON CONFLICT clauses of both databases."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - with its drivers 0.05 s of CPU

        return postgresql.insert(table)
    return sqlite.insert(table)


def upsert(connection: Connection, table: Table, keys: Sequence[str], values: Mapping[str, Any]) -> None:
    statement = insert(connection, table).values(**values)
    others = {key: statement.excluded[key] for key in values if key not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=others))
