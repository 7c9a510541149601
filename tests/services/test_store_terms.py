"""Fencing: what a leader writes counts only while nobody else leads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from daemon.errors import NotLeadingError, StoreUnavailableError
from daemon.records import AdapterState, RunState, utcnow
from daemon.store import Store, schema
from daemon.store.engine import connect, transaction
from daemon.store.terms import Term, within
from tests.fixtures.stores import PostgresServer, run_to_verdict, start_run, url_of

LEASE = "leader"


def lead(store: Store, owner: str, *, ttl_s: float = 60.0) -> Term:
    number = store.control.lead(LEASE, owner=owner, ttl_s=ttl_s)
    assert number is not None
    return Term(lease=LEASE, number=number)


def test_each_leadership_has_a_higher_term_also_that_of_a_restarted_owner_or_of_a_new_database(
    store: Store, new_store: Callable[[], Store]
) -> None:
    control = store.control
    terms = [lead(store, "a"), lead(store, "a")]
    renewed = control.lead(LEASE, owner="a", ttl_s=60, term=terms[0].number)
    assert renewed is not None
    assert renewed > terms[1].number, "a past term was renewed"
    terms.append(Term(lease=LEASE, number=renewed))
    control.abdicate(LEASE, owner="a")
    terms += [lead(store, "b", ttl_s=-1), lead(store, "c"), lead(new_store(), "a")]
    assert all(earlier.number < later.number for earlier, later in pairwise(terms))


def test_a_lease_that_ended_is_renewed_in_its_term_if_nobody_else_led(store: Store) -> None:
    term = lead(store, "a", ttl_s=-1)
    assert store.control.lead(LEASE, owner="a", ttl_s=60, term=term.number) == term.number


def test_nothing_that_steers_is_written_in_a_past_term(store: Store) -> None:
    past = lead(store, "a", ttl_s=-1)
    run = run_to_verdict(store)
    lead(store, "b")
    refused: list[Callable[[], object]] = [
        lambda: store.adapters.promote(run.generation, expected_live=0, actor="a", reason="late"),
        lambda: store.runs.rejected(run.id, reason="late"),
        lambda: store.runs.failed(run.id, reason="late"),
        lambda: store.runs.progress(run.id, {"late": True}),
        lambda: start_run(store),
        store.control.require_lead,
    ]
    with within(past):
        for write in refused:
            with pytest.raises(NotLeadingError, match="another daemon leads"):
                write()
        assert store.runs.get(run.id) == store.runs.find()[0], "reading goes on"
    assert store.runs.get(run.id).state is RunState.PROMOTING
    assert store.adapters.get(run.generation).state is AdapterState.CANDIDATE


def test_work_of_the_present_term_and_work_of_every_daemon_goes_on(store: Store) -> None:
    term = lead(store, "a")
    run = run_to_verdict(store)
    with within(term):
        store.adapters.promote(run.generation, expected_live=0, actor="a", reason="in time")
        store.control.require_lead()
    lead(store, "a")
    store.control.pause("ingest", actor="operator", reason="of no term")
    assert store.adapters.live().generation == run.generation


def test_a_transaction_of_a_term_ends_before_the_next_term_begins(
    store: Store, open_stores: Callable[[str], Store]
) -> None:
    term = lead(store, "a", ttl_s=-1)
    other, began = open_stores(url_of(store)), threading.Event()

    def take_over() -> None:
        lead(other, "b")
        began.set()

    taking_over = threading.Thread(target=take_over)
    with within(term), transaction(store.engine) as connection:
        taking_over.start()
        assert not began.wait(1.0)
        connection.execute(schema.pauses.insert().values(stage="x", actor="a", reason="r", at=utcnow()))
    taking_over.join()
    assert began.is_set()
    assert [pause.actor for pause in store.control.pauses()] == ["a"]


def test_a_leader_renews_its_lease_while_its_transactions_go_on(
    postgres_server: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(postgres_server.url(postgres_server.create_database()))
    term = lead(store, "a")
    with within(term), transaction(store.engine):
        assert store.control.lead(LEASE, owner="a", ttl_s=60, term=term.number) == term.number
        assert store.control.lead(LEASE, owner="b", ttl_s=60) is None


def test_a_leader_that_falls_silent_in_a_transaction_keeps_the_lease_no_longer_than_it_lasts(
    postgres_server: PostgresServer, open_stores: Callable[[str], Store]
) -> None:
    store = open_stores(postgres_server.url(postgres_server.create_database()))
    term = lead(store, "a", ttl_s=-1)
    silent = connect(url_of(store), silent_s=0.5)

    def go_silent() -> Term:
        with within(term), transaction(silent):
            return lead(store, "b")  # waits for the end of this transaction, which the database brings about

    with pytest.raises(StoreUnavailableError):
        go_silent()
    assert lead(store, "b").number > term.number
    silent.dispose()
