"""Whether a database has the newest schema. Most openings find that it has, and need no Alembic."""

from __future__ import annotations

from sqlalchemy import Engine

from daemon.store.engine import reading
from daemon.store.revision import NEWEST, revision_of


def migrate(engine: Engine) -> None:
    """Bring the database to the newest schema.

    Raises:
        StoreVersionError: A newer erratad, or another program, created the tables.
        StoreUnavailableError: The database cannot be reached.
    """
    with reading(engine) as connection:
        if revision_of(connection) == NEWEST:
            return
    from daemon.store.upgrade import upgrade  # noqa: PLC0415 - Alembic takes 0.1 s of CPU to import

    upgrade(engine)
