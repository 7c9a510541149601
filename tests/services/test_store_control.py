"""Steering: intents, pauses, the leader's lease, heartbeats, outbox and audit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from connectors.messages import EventType
from daemon.errors import NotFoundError
from daemon.records import IntentKind, IntentState, utcnow
from daemon.store import Store, schema
from daemon.store.control import DAEMON_SILENT_S
from daemon.store.engine import transaction
from daemon.store.outbox import emit
from tests.fixtures.stores import publish, url_of, waiting_events


def test_the_oldest_waiting_intent_of_a_kind_comes_first(store: Store) -> None:
    train = store.intents.request(IntentKind.TRAIN, actor="op", reason="now")
    back = store.intents.request(IntentKind.ROLLBACK, actor="op", reason="bad", target_generation=0)
    store.intents.request(IntentKind.TRAIN, actor="op", reason="again")
    assert store.intents.pending(IntentKind.TRAIN) == train
    assert store.intents.pending(IntentKind.ROLLBACK, IntentKind.PROMOTE) == back
    assert [(entry.action, entry.subject) for entry in store.audit.entries()] == [
        ("train", "next"),
        ("rollback", "0"),
        ("train", "next"),
    ]


def test_a_finished_intent_keeps_its_first_outcome(store: Store) -> None:
    intent = store.intents.request(IntentKind.PROMOTE, actor="op", reason="go", target_generation=3)
    store.intents.finish(intent.id, IntentState.REFUSED, "no such generation")
    store.intents.finish(intent.id, IntentState.DONE, "promoted")
    finished = store.intents.get(intent.id)
    assert (finished.state, finished.outcome) == (IntentState.REFUSED, "no such generation")
    assert store.intents.pending(IntentKind.PROMOTE) is None
    with pytest.raises(NotFoundError):
        store.intents.get(99)


def test_a_pause_holds_its_stage_and_all_holds_every_stage(store: Store) -> None:
    store.control.pause("ingest", actor="op", reason="one")
    store.control.pause("ingest", actor="op", reason="two")
    paused = store.control.paused("ingest")
    assert paused is not None
    assert paused.reason == "two"
    assert store.control.paused("reflection") is None
    store.control.pause("all", actor="op", reason="maintenance")
    assert store.control.paused("reflection") is not None
    assert store.control.resume("ingest", actor="op", reason="done") is True
    assert store.control.paused("ingest") is not None
    assert store.control.resume("all", actor="op", reason="done") is True
    assert store.control.pauses() == []
    assert store.control.resume("all", actor="op", reason="done") is False
    assert [entry.action for entry in store.audit.entries()] == ["resume", "resume", "pause", "pause", "pause"]


def test_one_daemon_leads_until_it_abdicates_or_its_lease_ends(store: Store) -> None:
    lead = store.control.lead
    first = lead("schedule", owner="a", ttl_s=60)
    assert lead("schedule", owner="b", ttl_s=60) is None
    assert lead("schedule", owner="a", ttl_s=60, term=first) == first
    assert lead("promotion", owner="b", ttl_s=60) is not None
    store.control.abdicate("schedule", owner="b")
    assert lead("schedule", owner="b", ttl_s=60) is None
    store.control.abdicate("schedule", owner="a")
    assert lead("schedule", owner="b", ttl_s=-1) is not None
    assert lead("schedule", owner="a", ttl_s=60) is not None


def test_daemons_that_want_to_lead_at_once_elect_one(store: Store, open_stores: Callable[[str], Store]) -> None:
    barrier = threading.Barrier(4)
    leaders: list[str] = []
    failures: list[Exception] = []

    def stand(owner: str, own: Store) -> None:
        barrier.wait()
        try:
            if own.control.lead("schedule", owner=owner, ttl_s=60) is not None:
                leaders.append(owner)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=stand, args=(f"d{n}", open_stores(url_of(store)))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(leaders) == 1


def test_a_heartbeat_replaces_the_one_before_it_and_old_ones_are_left_out(store: Store) -> None:
    store.control.heartbeat({"ingest": "starting"}, owner="a")
    store.control.heartbeat({"ingest": "stored 5 reports"}, owner="a")
    store.control.heartbeat({"ingest": "waiting"}, owner="b")
    assert [(beat.owner, beat.sentence) for beat in store.control.heartbeats()] == [
        ("a", "stored 5 reports"),
        ("b", "waiting"),
    ]
    assert store.control.heartbeats(max_age_s=-1) == []


def test_a_daemon_that_ended_says_nothing_once_another_one_speaks(store: Store) -> None:
    store.control.heartbeat({"serving": "vLLM exited"}, owner="old")
    long_ago = utcnow() - timedelta(seconds=DAEMON_SILENT_S + 5)
    with transaction(store.engine) as connection:
        connection.execute(update(schema.stages).values(last_step_at=long_ago))
    assert [beat.owner for beat in store.control.heartbeats()] == ["old"]
    store.control.heartbeat({"serving": "vLLM serves"}, owner="new")
    assert [beat.owner for beat in store.control.heartbeats()] == ["new"]


def test_heartbeats_of_daemons_that_ended_are_deleted(store: Store) -> None:
    store.control.heartbeat({"serving": "vLLM exited", "ingest": "waiting"}, owner="old")
    between = utcnow()
    store.control.heartbeat({"serving": "vLLM serves"}, owner="new")
    assert store.control.forget_ended(before=between) == 2
    assert [beat.owner for beat in store.control.heartbeats()] == ["new"]
    assert store.control.forget_ended(before=between) == 0


def test_events_leave_the_outbox_in_order_once_they_are_acknowledged(store: Store) -> None:
    with transaction(store.engine) as connection:
        for subject in "abc":
            emit(connection, EventType.REPORT_BURIED, subject, {"reason": "x"})
    first, second, third = waiting_events(store)
    assert [event.subject for event in (first, second, third)] == ["a", "b", "c"]
    assert len({first.id, second.id, third.id}) == 3
    publish(store, 2)
    assert waiting_events(store, limit=5) == [third]
    assert len(waiting_events(store)) == 1


def test_an_event_of_a_change_that_did_not_happen_is_never_sent(store: Store) -> None:
    with suppress(IntegrityError), transaction(store.engine) as connection:
        connection.execute(update(schema.adapters).values(reason="half"))
        emit(connection, EventType.REPORT_BURIED, "a", {})
        connection.execute(update(schema.adapters).values(name=None))
    assert len(waiting_events(store)) == 0
    assert store.adapters.live().reason is None


def test_ended_sessions_stay_ended_until_their_cookies_are_too_old(store: Store) -> None:
    now = utcnow()
    store.sign_outs.add("old", until=now - timedelta(seconds=1))
    assert "old" in store.sign_outs
    for _ in range(2):
        store.sign_outs.add("new", until=now + timedelta(hours=1))
    assert "new" in store.sign_outs
    assert "old" not in store.sign_outs
    assert "other" not in store.sign_outs


def test_an_intent_of_this_process_is_found_at_once_and_one_of_another_when_the_answer_is_old(
    new_store: Callable[[], Store], open_stores: Callable[[str], Store]
) -> None:
    here = new_store()
    there = open_stores(url_of(here))
    kind = IntentKind.ROLLBACK
    assert here.intents.pending(kind, max_age_s=60) is None
    there.intents.request(kind, actor="op", reason="bad")
    assert here.intents.pending(kind, max_age_s=60) is None
    assert here.intents.pending(kind, max_age_s=1e-9) is not None
    assert there.intents.pending(kind, max_age_s=60) is not None
    assert there.intents.pending(IntentKind.PROMOTE, max_age_s=60) is None
