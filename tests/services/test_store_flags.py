"""Votes against a generation's answers, on both databases."""

from __future__ import annotations

from daemon.labels import Names
from daemon.records import INDUCED, Evidence, Source, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.store.flags import RECENT, Electorate, Voters, Votes
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, force, promote
from tests.fixtures.traffic import EVERYBODY

NOBODY = Electorate(is_trusted=lambda _principal: False, evidence=frozenset(Evidence))
BASE, NEW = "aligned-g000000", "aligned-g000001"


def flag(store: Store, principal: str, *reporters: str, model: str = BASE, evidence: Evidence | None = None) -> None:
    messages = [flagged(model=model, reporter=reporter) for reporter in reporters]
    store.reports.add([(one, Source(channel="test", principal=principal)) for one in messages], reporter_cap=99)
    for one in messages if evidence is not None else []:
        force(store, "UPDATE reports SET evidence = :to WHERE id = :id", to=str(evidence), id=one.id)


def test_a_principal_without_trust_has_one_vote_and_its_verified_reporters_one_each(store: Store) -> None:
    flag(store, "app", "ann", "bob", "ann")
    flag(store, "site", "ann", "cid")
    flag(store, "site", "dan", "dan", "eve", evidence=Evidence.VERIFIED)
    assert store.flags.votes(0, NOBODY) == Votes(votes=1 + 1 + 2, principals=2)
    assert store.flags.votes(0, EVERYBODY) == Votes(votes=2 + 4, principals=2)
    assert store.flags.votes(0, Electorate(is_trusted="app".__eq__, evidence=frozenset())) == Votes(
        votes=2, principals=1
    )
    assert store.flags.votes(0, NOBODY, since=utcnow()) == Votes()


def test_a_voters_first_flag_counts_for_the_generation_that_it_is_on(store: Store) -> None:
    promote(store)
    begun = utcnow()
    flag(store, "app", "ann")
    flag(store, "app", *["ann"] * 9, model=NEW)
    flag(store, "app", "bob", "cid", model=NEW)
    assert store.flags.first_votes([0, 1], EVERYBODY, since=begun) == {
        0: Votes(votes=1, principals=1),
        1: Votes(votes=2, principals=1),
    }
    assert store.flags.first_votes([0, 1], NOBODY, since=begun) == {0: Votes(votes=1, principals=1), 1: Votes()}
    assert store.flags.first_votes([0, 1], EVERYBODY, since=utcnow()) == {0: Votes(), 1: Votes()}


def test_who_may_vote_is_counted_with_recorded_answers_and_trust(store: Store) -> None:
    begun = utcnow()
    assert store.flags.voters(NOBODY, since=begun) == Voters(principals=0, recorded=0, trusted=False)
    flag(store, "app", "ann", "bob")
    flag(store, "site", "ann")
    assert store.flags.voters(NOBODY, since=begun) == Voters(principals=2, recorded=0, trusted=False)
    assert store.flags.voters(EVERYBODY, since=begun) == Voters(principals=2, recorded=0, trusted=True)
    flag(store, "site", "bob", evidence=Evidence.VERIFIED)
    assert store.flags.voters(NOBODY, since=begun) == Voters(principals=2, recorded=1, trusted=False)


def test_recent_reports_are_counted_by_what_they_name(store: Store) -> None:
    flag(store, "app", "ann")
    flag(store, "app", "bob", "cid", model="aligned")
    flag(store, "app", "dan", model="raw")
    flag(store, "app", "eve", "fay", model="chat")
    flag(store, INDUCED, "eve", model="chat")
    force(
        store,
        "UPDATE reports SET received_at = :at WHERE reporter = 'cid'",
        at=f"{utcnow() - RECENT:%Y-%m-%d %H:%M:%S.%f}",
    )
    store.reports.erase(store.reports.find(ReportFilter(reporter="fay"))[0].id, actor="ops", reason="of another model")
    named = {Names.GENERATION: 2, Names.ALIAS: 1, Names.OTHER: 1}
    assert store.flags.named(alias="aligned", base_name="raw") == named
    assert store.flags.named() == {Names.GENERATION: 1, Names.ALIAS: 0, Names.OTHER: 3}


def test_the_votes_of_each_principal_without_trust_can_be_bounded(store: Store) -> None:
    flag(store, "app", "ann", "bob", "cid", evidence=Evidence.VERIFIED)
    flag(store, "site", "ann")
    assert store.flags.votes(0, NOBODY, most=2) == Votes(votes=2 + 1, principals=2)
    trusted = Electorate(is_trusted="app".__eq__, evidence=frozenset(Evidence))
    assert store.flags.votes(0, trusted, most=2) == Votes(votes=3 + 1, principals=2)


def test_what_waits_for_review_is_no_vote(store: Store) -> None:
    add(store, *(flagged(reporter="one-person") for _ in range(5)), reporter_cap=0)
    assert store.flags.votes(0, EVERYBODY) == Votes()
