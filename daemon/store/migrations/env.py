"""What Alembic runs for every command: the revisions, in the transaction that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from daemon.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
