"""Bring a database to the newest schema with Alembic; of two daemons that start together, one migrates."""

from __future__ import annotations

import threading

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from daemon.errors import StoreVersionError
from daemon.store.engine import Lock, serialise, transaction
from daemon.store.revision import MIGRATIONS, revision_of

MIGRATION_TIMEOUT = "30min"
"""PostgreSQL's time limit for one statement of a migration, and for the wait for another daemon's migration."""

_ALEMBIC = threading.Lock()  # Alembic keeps the current migration in module globals


def upgrade(engine: Engine) -> None:
    """Run the missing revisions in one transaction, under a lock against other daemons.

    Raises:
        StoreVersionError: A newer erratad, or another program, created the tables.
        StoreUnavailableError: The database cannot be reached.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _ALEMBIC, transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            for setting in ("lock_timeout", "statement_timeout"):
                connection.exec_driver_sql(f"SET LOCAL {setting} = '{MIGRATION_TIMEOUT}'")
        serialise(connection, Lock.MIGRATION)
        _refuse_strangers(connection, ScriptDirectory.from_config(config))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse_strangers(connection: Connection, script: ScriptDirectory) -> None:
    revision = revision_of(connection)
    if revision is None and inspect(connection).has_table("reports"):
        raise StoreVersionError(
            "the database holds a table 'reports' that no released erratad made; give erratad a database of its own"
        )
    known = {one.revision for one in script.walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreVersionError(
            f"the database's schema is at revision {revision}, which this erratad does not know: "
            "a newer one migrated it; start that version, or restore a backup made before it"
        )
