"""Fencing: what a leader writes counts only while nobody else leads.

Each new leadership gets a higher term. Within a term (`within`), every transaction of the store first checks that the
term is still the lease's (`daemon.store.engine.transaction`). So a daemon that was stopped or cut off, and then goes on
with a step, changes nothing once another daemon leads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from sqlalchemy import Connection, select

from daemon.errors import NotLeadingError
from daemon.store import schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One leadership: the name of its lease, and a number that is higher than that of any earlier one."""

    lease: str
    number: int


_current: ContextVar[Term | None] = ContextVar("term", default=None)


@contextmanager
def within(term: Term) -> Iterator[None]:
    """What this thread writes in the block is the work of this term."""
    token = _current.set(term)
    try:
        yield
    finally:
        _current.reset(token)


def current_term() -> Term | None:
    """The term of the work that this thread does; None for work that every daemon may do."""
    return _current.get()


def require_term(connection: Connection) -> None:
    """Check the term of this thread's work, and keep others from leading before the transaction ends.

    On PostgreSQL the lock lets the leader renew its lease, but a new leader waits for it (`Control.lead`). SQLite's
    writers queue anyway.

    Raises:
        NotLeadingError: A later term has begun.
    """
    term, table = _current.get(), schema.leases
    if term is None:
        return
    query = select(table.c.term).where(table.c.name == term.lease).with_for_update(read=True, key_share=True)
    found = connection.execute(query).scalar_one_or_none()
    if found != term.number:
        raise NotLeadingError(f"another daemon leads (term {found}, not {term.number})")
