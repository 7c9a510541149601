"""Traffic per generation: totals that survive restarts, repetitions and another daemon, on both databases."""

from __future__ import annotations

from datetime import timedelta

from daemon.records import utcnow
from daemon.store import Store
from daemon.store.traffic import FORGET_AFTER, STEP, Increase, Observed, TrafficTally, step_of
from tests.fixtures.config import flagged
from tests.fixtures.stores import add, promote


def observed(epoch: str = "first", generation: int = 0, requests: int = 10, errors: int = 0) -> Observed:
    return Observed(epoch=epoch, generation=generation, requests=requests, errors=errors)


def test_what_a_server_process_shows_is_counted_once(store: Store) -> None:
    assert store.traffic.add([observed(requests=10, errors=1)]).requests == 10
    assert store.traffic.add([observed(requests=10, errors=1)]).requests == 0
    assert store.traffic.add([observed(requests=25, errors=3)]).requests == 15
    assert store.traffic.tally(0) == TrafficTally(requests=25, errors=3, flagged=0)


def test_servers_and_their_restarts_add_up(store: Store) -> None:
    store.traffic.add([observed("first", requests=10), observed("second", requests=5)])
    store.traffic.add([observed("second", requests=5), observed("restarted", requests=4, errors=2)])
    assert store.traffic.tally(0) == TrafficTally(requests=19, errors=2, flagged=0)


def test_generations_are_kept_apart_and_strangers_are_left_out(store: Store) -> None:
    promote(store)
    store.traffic.add([observed(generation=0, requests=3), observed(generation=1, requests=7), observed(generation=99)])
    assert [store.traffic.tally(generation).requests for generation in (0, 1, 99)] == [3, 7, 0]


def test_a_count_that_goes_back_takes_nothing_away(store: Store) -> None:
    store.traffic.add([observed(requests=10)])
    assert store.traffic.add([observed(requests=4)]).requests == 0
    assert store.traffic.add([observed(requests=12)]).requests == 2
    assert store.traffic.tally(0).requests == 12


def test_refusals_because_of_the_guidance_are_counted_once_over_servers_and_generations(store: Store) -> None:
    def refused(epoch: str, generation: int, count: int) -> Observed:
        return Observed(epoch=epoch, generation=generation, requests=0, errors=0, guidance_refusals=count)

    promote(store)
    long_ago = utcnow() - timedelta(days=2)
    assert store.traffic.add([refused("first", 0, 5)], at=long_ago) == Increase(guidance_refusals=5)
    assert store.traffic.add([refused("first", 0, 7), refused("second", 1, 2)]) == Increase(guidance_refusals=4)
    assert not store.traffic.add([refused("first", 0, 7), refused("second", 1, 2)])
    assert store.traffic.guidance_refusals(since=utcnow() - timedelta(days=1)) == 4
    assert store.traffic.guidance_refusals(since=long_ago) == 9
    assert (store.traffic.tally(0).requests, store.traffic.tally(0).errors) == (0, 0)


def test_an_ended_process_is_forgotten_and_its_traffic_stays(store: Store) -> None:
    long_ago = utcnow() - FORGET_AFTER - timedelta(days=1)
    store.traffic.add([observed("ended", requests=10)], at=long_ago)
    store.traffic.add([observed("new", requests=1)])
    assert store.traffic.tally(0).requests == 11
    store.traffic.add([observed("ended", requests=10)])
    assert store.traffic.tally(0).requests == 21


def test_a_tally_can_be_of_a_span_of_time(store: Store) -> None:
    start = step_of(utcnow()) - 10 * STEP
    for number in range(3):
        store.traffic.add([observed(requests=10 * (number + 1))], at=start + number * STEP)
    assert store.traffic.tally(0, since=start + STEP).requests == 20
    assert store.traffic.tally(0, since=start + STEP * 1.5).requests == 20
    assert store.traffic.tally(0).requests == 30


def test_the_window_of_the_latest_requests_begins_at_the_step_that_completes_them(store: Store) -> None:
    start = step_of(utcnow()) - 10 * STEP
    for number in range(3):
        store.traffic.add([observed(requests=10 * (number + 1))], at=start + number * STEP)
    begins = [store.traffic.window(0, requests=requests) for requests in (5, 10, 11, 30, 1000)]
    assert begins == [start + 2 * STEP, start + 2 * STEP, start + STEP, start, start]
    assert store.traffic.window(7, requests=5) is None


def test_a_burst_of_errors_counts_only_so_much(store: Store) -> None:
    start = step_of(utcnow()) - 10 * STEP
    store.traffic.add([observed(requests=500, errors=400)], at=start)
    store.traffic.add([observed(requests=600, errors=403)], at=start + STEP)
    assert store.traffic.tally(0, errors_per_step=5).errors == 8
    assert store.traffic.tally(0).errors == 403


def test_flagged_reports_are_counted_under_the_generation_that_answered(store: Store) -> None:
    promote(store)
    before = store.traffic.tally(0).flagged
    same = flagged(model="aligned-g000001")
    add(
        store,
        flagged(model="aligned-g000001", reporter="ann"),
        flagged(model="aligned-g000001", reporter="ann"),
        same,
        same.model_copy(update={"id": "flagged-again", "reporter": "bob"}),
        flagged(model="gpt-of-somebody"),
    )
    assert store.traffic.tally(1).flagged == 3
    assert store.traffic.tally(0).flagged == before


def test_what_waits_for_review_counts_for_no_rate(store: Store) -> None:
    add(store, *(flagged(reporter="one-person") for _ in range(5)), reporter_cap=2)
    assert store.traffic.tally(0).flagged == 2


def test_a_rate_without_requests_is_zero() -> None:
    assert TrafficTally(requests=0, errors=0, flagged=3).flagged_ratio == 0
    assert TrafficTally(requests=500, errors=0, flagged=3).flagged_ratio == 0.006
