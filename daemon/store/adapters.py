"""Adapter generations. One transaction decides which generation is live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from connectors.messages import EventType
from daemon.adapter_names import adapter_name
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import BASE_GENERATION, Adapter, AdapterState, RunState, utcnow
from daemon.retest import tally_text
from daemon.store import rows, schema
from daemon.store.audit import record_audit
from daemon.store.engine import Lock, insert, reading, serialise, transaction
from daemon.store.erasures import is_withdrawn, retired
from daemon.store.intents import fulfil
from daemon.store.outbox import emit
from daemon.store.retests import settle, undo_outcomes
from daemon.transitions import ADAPTER_TRANSITIONS

REMOVABLE = (AdapterState.RETIRED, AdapterState.REJECTED, AdapterState.FAILED, AdapterState.ROLLED_BACK)
"""States in which an adapter's folder may be removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fulfilled:
    """The intent that a change of the live generation completes, and the text of its outcome."""

    intent_id: int
    outcome: str


class Adapters:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ensure_base(self, alias: str) -> None:
        """Make generation 0, the base model, live in an empty store."""
        table = schema.adapters
        now = utcnow()
        with reading(self._engine) as connection:
            if connection.execute(select(table.c.generation).limit(1)).first() is not None:
                return
        with transaction(self._engine) as connection:
            connection.execute(
                insert(connection, table)
                .values(
                    generation=BASE_GENERATION,
                    name=adapter_name(alias, BASE_GENERATION),
                    state=AdapterState.LIVE,
                    created_at=now,
                    updated_at=now,
                    promoted_at=now,
                )
                .on_conflict_do_nothing(index_elements=["generation"])
            )

    def live(self) -> Adapter:
        with reading(self._engine) as connection:
            return rows.record(Adapter, live_row(connection))

    def get(self, generation: int) -> Adapter:
        with reading(self._engine) as connection:
            return rows.record(Adapter, _row(connection, generation))

    def find(self, *, state: AdapterState | None = None, limit: int = 50, offset: int = 0) -> list[Adapter]:
        """Newest first."""
        table = schema.adapters
        query = select(table).order_by(table.c.generation.desc()).limit(limit).offset(offset)
        if state is not None:
            query = query.where(table.c.state == state)
        with reading(self._engine) as connection:
            return [rows.record(Adapter, row) for row in connection.execute(query)]

    def with_files(self) -> list[Adapter]:
        """Adapters with a folder on the disk; newest first."""
        table = schema.adapters
        return self._where(table.c.path.is_not(None), table.c.files_removed_at.is_(None))

    def without_files(self) -> list[Adapter]:
        """Adapters whose folder was removed from the disk; newest first."""
        return self._where(schema.adapters.c.files_removed_at.is_not(None))

    def _where(self, *conditions: ColumnElement[bool]) -> list[Adapter]:
        query = select(schema.adapters).where(*conditions).order_by(schema.adapters.c.generation.desc())
        with reading(self._engine) as connection:
            return [rows.record(Adapter, row) for row in connection.execute(query)]

    def files_removed(self, generation: int, reason: str) -> bool:
        """Mark, before the folder is removed, that this generation cannot go live again. False if it just went live."""
        table = schema.adapters
        removable = (table.c.state.in_(REMOVABLE), table.c.files_removed_at.is_(None))
        with transaction(self._engine) as connection:
            serialise(connection, Lock.LIVE)
            query = update(table).where(table.c.generation == generation, *removable)
            if not connection.execute(query.values(files_removed_at=utcnow(), updated_at=utcnow())).rowcount:
                return False
            name = _row(connection, generation).name
            record_audit(connection, actor="erratad", action="files_removed", subject=name, reason=reason)
        return True

    def previous(self) -> Adapter | None:
        """The generation to roll back to: the last retired one that is older than the live one."""
        table = schema.adapters
        live = select(table.c.generation).where(table.c.state == AdapterState.LIVE).scalar_subquery()
        with reading(self._engine) as connection:
            row = connection.execute(retired().where(table.c.generation < live).limit(1)).one_or_none()
        return None if row is None else rows.record(Adapter, row)

    def promote(
        self,
        generation: int,
        *,
        expected_live: int,
        actor: str,
        reason: str,
        fulfils: Fulfilled | None = None,
        strengths: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the candidate live, retire the live generation and end the run as promoted, in one transaction.

        The reports of the run get the states that its answers earned (`daemon.retest.outcome`).

        Args:
            fulfils: The operator's intent that the promotion completes.
            strengths: What the event says of the strengths that were measured.

        Raises:
            IllegalTransitionError: Another generation than `expected_live` is live, the candidate may not go live, or
            the
                intent was completed before.
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
            _end(connection, fulfils)
            if candidate.run_id is not None:
                settle(connection, candidate.run_id, generation=generation)
            emit(
                connection,
                EventType.ADAPTER_PROMOTED,
                candidate.name,
                {
                    "generation": generation,
                    "previous": expected_live,
                    "reason": reason,
                    **_found(connection, candidate),
                    **(strengths or {}),
                },
            )
            record_audit(connection, actor=actor, action="promoted", subject=candidate.name, reason=reason)

    def roll_back(
        self, generation: int, *, expected_live: int, actor: str, reason: str, fulfils: Fulfilled | None = None
    ) -> None:
        """Make a retired generation live again. A newer generation that it replaces is not promoted again.

        An older one that it replaces is retired: to go forward says nothing against it.
        Reports resolved by a generation newer than the target recur. The base model (generation 0)
        is never marked as rolled back: it must stay available. The intent ends in the same transaction, so that a crash
        never rolls back twice.

        Raises:
            IllegalTransitionError: Another generation than `expected_live` is live, the target was never live or was
            itself
                rolled back, or the intent was completed before.
        """
        with transaction(self._engine) as connection:
            forward = BASE_GENERATION < expected_live < generation
            leaving = AdapterState.RETIRED if forward or expected_live == BASE_GENERATION else AdapterState.ROLLED_BACK
            bad, target = _row(connection, expected_live), _row(connection, generation)
            if target.state != AdapterState.RETIRED:
                raise IllegalTransitionError(
                    f"generation {generation} is {target.state}: only a retired one can be rolled back to"
                )
            self._replace_live(connection, generation, expected_live=expected_live, leaving=leaving)
            _end(connection, fulfils)
            undo_outcomes(connection, target=generation, leaving=expected_live)
            if forward:
                said = {"generation": generation, "previous": expected_live, "reason": reason}
                emit(connection, EventType.ADAPTER_PROMOTED, target.name, said)
                record_audit(connection, actor=actor, action="promoted", subject=target.name, reason=reason)
                return
            emit(
                connection,
                EventType.ADAPTER_ROLLED_BACK,
                bad.name,
                {"generation": expected_live, "live": generation, "reason": reason},
            )
            record_audit(connection, actor=actor, action="rolled_back", subject=bad.name, reason=reason)

    def approve(self, generation: int, *, actor: str, reason: str) -> None:
        """Lift the bar of a generation that was rolled back: it counts as retired, and may go live again.

        Raises:
            NotFoundError: The generation is unknown.
            IllegalTransitionError: It was not rolled back, its files are gone, or it was trained on erased reports.
        """
        table = schema.adapters
        with transaction(self._engine) as connection:
            serialise(connection, Lock.LIVE)
            row = _row(connection, generation)
            if row.state != AdapterState.ROLLED_BACK:
                raise IllegalTransitionError(
                    f"generation {generation} is {row.state}: only a rolled-back one is approved"
                )
            if row.files_removed_at is not None:
                raise IllegalTransitionError(f"the files of generation {generation} were removed: train a new one")
            if _is_withdrawn(connection, generation):
                raise IllegalTransitionError(f"generation {generation} was trained on reports that were erased since")
            change = update(table).where(table.c.generation == generation)
            connection.execute(change.values(state=AdapterState.RETIRED, updated_at=utcnow()))
            record_audit(connection, actor=actor, action="approved", subject=row.name, reason=reason)

    def _replace_live(
        self, connection: Connection, generation: int, *, expected_live: int, leaving: AdapterState
    ) -> Any:
        table = schema.adapters
        now = utcnow()
        serialise(connection, Lock.LIVE)
        live, target = live_row(connection), _row(connection, generation)
        if live.generation != expected_live:
            raise IllegalTransitionError(
                f"generation {live.generation} is live, not {expected_live}: see `erratad status`"
            )
        if AdapterState.LIVE not in ADAPTER_TRANSITIONS[target.state]:
            raise IllegalTransitionError(f"generation {generation} is {target.state}: it cannot become live")
        if target.files_removed_at is not None:
            raise IllegalTransitionError(
                f"the files of generation {generation} were removed on {target.files_removed_at:%Y-%m-%d} "
                "(storage.keep_adapters): it cannot become live; choose a newer one"
            )
        if _is_withdrawn(connection, generation):
            raise IllegalTransitionError(
                f"generation {generation} was trained on a report that is erased (privacy.after_erasure): it cannot "
                "become live; choose another one"
            )
        if generation != BASE_GENERATION and not target.evidence_accepted:
            raise IllegalTransitionError(f"generation {generation} has no accepting verdict: it cannot become live")
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


_LIVE = select(schema.adapters).where(schema.adapters.c.state == AdapterState.LIVE)


def live_row(connection: Connection) -> Any:
    row = connection.execute(_LIVE).one_or_none()
    if row is None:
        raise NotFoundError("no generation is live; the store was not opened with open_store()")
    return row


def _row(connection: Connection, generation: int) -> Any:
    row = connection.execute(select(schema.adapters).where(schema.adapters.c.generation == generation)).one_or_none()
    if row is None:
        raise NotFoundError(f"no generation {generation}; `erratad adapters` lists them")
    return row


def _found(connection: Connection, candidate: Any) -> dict[str, Any]:
    """For an event: what the run found out about its reports, those that were not trained on first."""
    verdicts = schema.verdicts
    query = select(verdicts.c.figures).where(verdicts.c.run_id == candidate.run_id)
    figures = connection.execute(query).scalar_one_or_none() or {}
    counts = {name: figures[name] for name in ("held_out", "trained") if name in figures}
    said = tally_text(figures)
    return counts if said is None else {**counts, "said": said}


def _end(connection: Connection, fulfils: Fulfilled | None) -> None:
    if fulfils is not None:
        fulfil(connection, fulfils.intent_id, fulfils.outcome)


def _is_withdrawn(connection: Connection, generation: int) -> bool:
    table = schema.adapters
    query = select(table.c.generation).where(table.c.generation == generation, is_withdrawn())
    return connection.execute(query).first() is not None
