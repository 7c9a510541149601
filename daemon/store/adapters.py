"""Adapter generations: which one is live is decided here, in one transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, select, update

from connectors.messages import EventType
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import (
    ADAPTER_TRANSITIONS,
    BASE_GENERATION,
    Adapter,
    AdapterState,
    RunState,
    adapter_name,
    utcnow,
)
from daemon.store import schema
from daemon.store.control import emit, record_audit
from daemon.store.engine import transaction


class Adapters:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ensure_base(self, alias: str) -> None:
        """Make generation 0, the base model, live in an empty store."""
        table = schema.adapters
        now = utcnow()
        with transaction(self._engine) as connection:
            if connection.execute(select(table.c.generation).limit(1)).first() is None:
                connection.execute(
                    table.insert().values(
                        generation=BASE_GENERATION,
                        name=adapter_name(alias, BASE_GENERATION),
                        state=AdapterState.LIVE,
                        created_at=now,
                        updated_at=now,
                        promoted_at=now,
                    )
                )

    def live(self) -> Adapter:
        with transaction(self._engine) as connection:
            return _adapter(_live(connection))

    def get(self, generation: int) -> Adapter:
        with transaction(self._engine) as connection:
            return _adapter(_row(connection, generation))

    def find(self, *, state: AdapterState | None = None, limit: int = 50) -> list[Adapter]:
        """Newest first."""
        table = schema.adapters
        query = select(table).order_by(table.c.generation.desc()).limit(limit)
        if state is not None:
            query = query.where(table.c.state == state)
        with transaction(self._engine) as connection:
            return [_adapter(row) for row in connection.execute(query)]

    def previous(self) -> Adapter | None:
        """The generation to roll back to: the one retired last."""
        table = schema.adapters
        query = (
            select(table)
            .where(table.c.state == AdapterState.RETIRED)
            .order_by(table.c.retired_at.desc(), table.c.generation.desc())
            .limit(1)
        )
        with transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _adapter(row)

    def promote(self, generation: int, *, expected_live: int, actor: str, reason: str) -> None:
        """Candidate becomes live, the live one retires, its run ends as promoted: one transaction.

        Raises:
            IllegalTransitionError: when another generation than `expected_live` is live, or the candidate may not be.
        """
        with transaction(self._engine) as connection:
            candidate = self._replace_live(
                connection, generation, expected_live=expected_live, leaving=AdapterState.RETIRED
            )
            connection.execute(
                update(schema.runs)
                .where(schema.runs.c.id == candidate.run_id, schema.runs.c.state == RunState.PROMOTING)
                .values(state=RunState.PROMOTED, reason=reason, updated_at=utcnow(), finished_at=utcnow())
            )
            emit(
                connection,
                EventType.ADAPTER_PROMOTED,
                candidate.name,
                {"generation": generation, "previous": expected_live, "reason": reason},
            )
            record_audit(connection, actor=actor, action="promoted", subject=candidate.name, reason=reason)

    def roll_back(self, generation: int, *, expected_live: int, actor: str, reason: str) -> None:
        """A retired generation becomes live again; the one that leaves is never promoted again.

        The base model (generation 0) is never marked as rolled back: it must stay available.
        """
        with transaction(self._engine) as connection:
            leaving = AdapterState.RETIRED if expected_live == BASE_GENERATION else AdapterState.ROLLED_BACK
            bad = _row(connection, expected_live)
            self._replace_live(connection, generation, expected_live=expected_live, leaving=leaving)
            emit(
                connection,
                EventType.ADAPTER_ROLLED_BACK,
                bad.name,
                {"generation": expected_live, "live": generation, "reason": reason},
            )
            record_audit(connection, actor=actor, action="rolled_back", subject=bad.name, reason=reason)

    def _replace_live(
        self, connection: Connection, generation: int, *, expected_live: int, leaving: AdapterState
    ) -> Any:
        table = schema.adapters
        now = utcnow()
        live, target = _live(connection), _row(connection, generation)
        if live.generation != expected_live:
            raise IllegalTransitionError(
                f"generation {live.generation} is live, not {expected_live}: somebody else changed it; look again"
            )
        if AdapterState.LIVE not in ADAPTER_TRANSITIONS[AdapterState(target.state)]:
            raise IllegalTransitionError(f"generation {generation} is {target.state}: it cannot become live")
        connection.execute(
            update(table)
            .where(table.c.generation == live.generation)
            .values(state=leaving, retired_at=now, updated_at=now)
        )
        connection.execute(
            update(table)
            .where(table.c.generation == generation)
            .values(state=AdapterState.LIVE, promoted_at=now, updated_at=now)
        )
        return target


def _live(connection: Connection) -> Any:
    row = connection.execute(select(schema.adapters).where(schema.adapters.c.state == AdapterState.LIVE)).one_or_none()
    if row is None:
        raise NotFoundError("no generation is live; the store was not opened with open_store()")
    return row


def _row(connection: Connection, generation: int) -> Any:
    row = connection.execute(select(schema.adapters).where(schema.adapters.c.generation == generation)).one_or_none()
    if row is None:
        raise NotFoundError(f"no generation {generation}; `erratad adapters` lists them")
    return row


def _adapter(row: Any) -> Adapter:
    return Adapter(
        generation=row.generation,
        name=row.name,
        state=AdapterState(row.state),
        run_id=row.run_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        path=row.path,
        sha256=row.sha256,
        reason=row.reason,
        promoted_at=row.promoted_at,
        retired_at=row.retired_at,
    )
