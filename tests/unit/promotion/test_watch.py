"""Automatic rollback: its causes, non-causes, and that it takes the operator's path."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.messages import EventType
from daemon.config.rollout import WatchConfig
from daemon.promotion.watch import WatchStage
from daemon.records import AdapterState, IntentKind, IntentState, utcnow
from daemon.runtime.stage import Step
from daemon.store.traffic import STEP
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.serving import Bench
from tests.fixtures.stores import add, force, waiting_events
from tests.fixtures.traffic import answered

BASE = "aligned-g000000"
FIRST = "aligned-g000001"
SECOND = "aligned-g000002"


def look(bench: Bench, **changes: Any) -> Step:
    config = WatchConfig(min_requests=100, **changes)
    return WatchStage(store=bench.store, config=config).step(life())


def promoted_twice(bench: Bench) -> None:
    """Generation 1 answered 2,000 requests, 10 of them flagged; then generation 2 went live."""
    bench.promoted()
    answered(bench.store, 1, 2000, flags=10)
    bench.promoted()


def test_a_risen_flagged_rate_rolls_back_for_good(bench: Bench) -> None:
    promoted_twice(bench)
    rollbacks = _rollbacks("flagged")
    answered(bench.store, 2, 2000, flags=50)
    assert look(bench).sentence.startswith("asked for a rollback: ")
    bench.step()
    assert bench.live_names() == {FIRST}
    assert bench.store.adapters.get(2).state == AdapterState.ROLLED_BACK
    entry = bench.store.audit.entries(limit=1)[0]
    assert (entry.actor, entry.action, entry.subject) == ("erratad", "rolled_back", SECOND)
    assert "flagged: 50 of 2000 (25.0 per 1,000) against 10 of 2000 (5.0 per 1,000), p = " in entry.reason
    [event] = [one for one in waiting_events(bench.store) if one.type == EventType.ADAPTER_ROLLED_BACK]
    assert event.subject == SECOND
    assert event.data["reason"] == entry.reason
    assert _rollbacks("flagged") == rollbacks + 1
    again = bench.store.intents.request(IntentKind.PROMOTE, actor="operator", reason="try", target_generation=2)
    bench.step()
    assert bench.store.intents.get(again.id).state == IntentState.REFUSED


def test_a_like_rate_stays_live(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, flags=14)
    step = look(bench)
    assert f"{SECOND} against {FIRST}: flagged: 14 of 2000" in step.sentence
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is None
    assert (REGISTRY.get_sample_value("erratad_watch_p_value", {"rate": "flagged"}) or 0) > 0.1


def test_a_risen_error_rate_that_goes_on_rolls_back(bench: Bench) -> None:
    promoted_twice(bench)
    for number in range(8):
        answered(bench.store, 2, 200, errors=40, at=utcnow() + number * STEP)
    look(bench)
    bench.step()
    assert bench.live_names() == {FIRST}
    assert "errors: " in bench.store.audit.entries(limit=1)[0].reason


def test_one_outage_of_a_server_is_not_taken_for_the_adapters_fault(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, errors=900)
    look(bench)
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is None


def test_one_person_cannot_force_a_rollback(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000)
    add(bench.store, *(flagged(model=SECOND, reporter="attacker") for _ in range(200)))
    assert "flagged: 1 of 2000" in look(bench).sentence
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is None


def test_people_who_flag_often_are_no_rise_after_a_long_quiet_time(bench: Bench) -> None:
    """The same 20 people flag every thousand requests: over the old generation's whole life they count once each."""
    bench.promoted()
    for number in range(10):
        answered(bench.store, 1, 1000, at=utcnow() - (10 - number) * STEP)
    add(bench.store, *(flagged(model=FIRST, reporter=f"regular-{number % 20}") for number in range(200)))
    bench.promoted()
    answered(bench.store, 2, 1000)
    add(bench.store, *(flagged(model=SECOND, reporter=f"regular-{number}") for number in range(20)))
    assert "flagged: 20 of 1000 (20.0 per 1,000) against 20 of 1000" in look(bench).sentence


def test_nothing_is_decided_before_the_least_requests(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 60, flags=60)
    assert look(bench).sentence == f"{SECOND} against {FIRST}: 60 of 100 requests answered"
    answered(bench.store, 2, 60)
    look(bench)
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is not None


def test_the_watch_ends_but_not_before_the_least_requests(bench: Bench) -> None:
    promoted_twice(bench)
    long_ago = utcnow() - timedelta(days=2)
    force(
        bench.store,
        "UPDATE adapters SET promoted_at = :at WHERE generation = 2",
        at=long_ago.strftime("%Y-%m-%d %H:%M:%S"),
    )
    answered(bench.store, 2, 60)
    assert "60 of 100 requests" in look(bench).sentence
    answered(bench.store, 2, 2000, flags=80)
    assert look(bench).sentence == f"{SECOND} has passed its watch of 86400 s"
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is None


def test_it_asks_once(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, flags=50)
    look(bench)
    assert "asked to roll back aligned-g000002 (pending)" in look(bench).sentence
    bench.step()
    look(bench)
    assert bench.store.intents.pending(IntentKind.ROLLBACK) is None


def test_a_rise_that_outlives_the_rollback_does_not_undo_one_generation_after_the_other(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, flags=50)
    look(bench)
    bench.step()
    answered(bench.store, 0, 2000, flags=5)
    answered(bench.store, 1, 4000, flags=100)
    assert look(bench).sentence == f"{FIRST} is live by a rollback: it was watched before"
    assert bench.live_names() == {FIRST}


def test_an_operator_who_is_faster_is_not_rolled_back_over(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, flags=50)
    bench.ask_rollback()
    look(bench)
    bench.step()
    bench.step()
    assert bench.live_names() == {FIRST}


@pytest.mark.parametrize(
    ("changes", "words"), [({"enabled": False}, "switched off"), ({}, "no generation was live before")]
)
def test_it_rests_where_there_is_nothing_to_watch(bench: Bench, changes: dict[str, bool], words: str) -> None:
    assert words in look(bench, **changes).sentence


def _rollbacks(rate: str) -> float:
    return REGISTRY.get_sample_value("erratad_automatic_rollbacks_total", {"rate": rate}) or 0.0
