"""The database itself refuses every illegal change of state, from any client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, and_, select, update
from sqlalchemy.exc import IntegrityError

from daemon.errors import IllegalTransitionError
from daemon.records import ReportState, utcnow
from daemon.store import Store, schema
from daemon.store.engine import transaction
from daemon.transitions import ADAPTER_TRANSITIONS, INITIAL_STATES, REPORT_TRANSITIONS, RUN_TRANSITIONS
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, learn, mark, start_run

MACHINES: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "reports": REPORT_TRANSITIONS,
    "adapters": ADAPTER_TRANSITIONS,
    "runs": RUN_TRANSITIONS,
}


@pytest.fixture
def one_row_each(store: Store) -> Store:
    """One report, run and adapter that meet every other constraint in all states."""
    run = start_run(store)
    assert run is not None
    message = flagged()
    add(store, message)
    with transaction(store.engine) as connection:
        connection.execute(update(schema.reports).values(lease_until=utcnow(), duplicate_of=message.id))
        connection.execute(schema.adapters.delete().where(schema.adapters.c.generation == run.generation))
    return store


def put_into(connection: Connection, machine: str, state: str) -> None:
    """Bring the row into any state, by making this change legal for a moment."""
    table, legal = schema.metadata.tables[machine], schema.transitions
    current = connection.execute(select(table.c.state)).scalar_one()
    pair = {"machine": machine, "old": current, "new": state}
    is_pair = and_(*(legal.c[key] == value for key, value in pair.items()))
    if connection.execute(select(legal).where(is_pair)).first() is None:
        connection.execute(legal.insert().values(pair))
        connection.execute(update(table).values(state=state))
        connection.execute(legal.delete().where(is_pair))
    else:
        connection.execute(update(table).values(state=state))


@pytest.mark.parametrize("machine", MACHINES)
def test_the_database_refuses_exactly_the_illegal_changes_of_state(one_row_each: Store, machine: str) -> None:
    table = schema.metadata.tables[machine]
    for old, legal in MACHINES[machine].items():
        for new in MACHINES[machine]:
            with one_row_each.engine.connect() as connection:
                put_into(connection, machine, old)
                if new in legal or new == old:
                    connection.execute(update(table).values(state=new))
                else:
                    message = f"illegal transition: {machine} cannot go from {old} to {new}"
                    with pytest.raises(IntegrityError, match=message):
                        connection.execute(update(table).values(state=new))
                connection.rollback()


@pytest.mark.parametrize("machine", MACHINES)
def test_the_database_refuses_new_rows_that_are_half_way_through(one_row_each: Store, machine: str) -> None:
    table = schema.metadata.tables[machine]
    with one_row_each.engine.connect() as connection:
        row = dict(connection.execute(select(table)).one()._mapping)
    key = next(iter(table.primary_key.columns)).name
    row[key] = "another" if isinstance(row[key], str) else 99
    for state in MACHINES[machine].keys() - INITIAL_STATES[machine]:
        with (
            pytest.raises(IllegalTransitionError, match=f"a new row of {machine} cannot be {state}"),
            transaction(one_row_each.engine) as connection,
        ):
            connection.execute(table.insert().values({**row, "state": state}))


def test_a_change_of_state_that_the_database_refuses_is_an_illegal_transition(store: Store) -> None:
    [report_id] = learn(store, flagged())
    mark(store, [report_id], ReportState.RESOLVED, generation=0)
    with pytest.raises(IllegalTransitionError, match="reports cannot go from resolved to duplicate"):
        force(store, "UPDATE reports SET state = 'duplicate', duplicate_of = id")
    assert store.reports.get(report_id).state == ReportState.RESOLVED
