"""Trials in the store: started once, by a candidate with a verdict; figures of shadows add up over processes."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from connectors.vllm_wire import ShadowFigures
from daemon.errors import IllegalTransitionError
from daemon.records import AdapterState
from daemon.store import Store
from tests.fixtures.stores import force, run_to_verdict


def begin(store: Store, generation: int, mode: AdapterState = AdapterState.CANARY) -> None:
    store.trials.start(generation, mode=mode, share=0.25, concurrency=2, actor="tester")


@pytest.mark.parametrize("mode", [AdapterState.CANARY, AdapterState.SHADOW])
def test_a_trial_is_read_as_it_was_begun(store: Store, mode: AdapterState) -> None:
    run = run_to_verdict(store)
    assert store.trials.current() is None
    begin(store, run.generation, mode)
    current = store.trials.current()
    assert current is not None
    assert (current.generation, current.name, current.mode) == (1, "aligned-g000001", mode)
    assert (current.share, current.concurrency) == (0.25, 2)


def test_a_trial_ends_with_the_adapters_state(store: Store) -> None:
    run = run_to_verdict(store)
    begin(store, run.generation)
    store.runs.rejected(run.id, reason="flagged rose")
    assert store.trials.current() is None
    second = run_to_verdict(store)
    begin(store, second.generation)
    store.adapters.promote(second.generation, expected_live=0, actor="tester", reason="did well")
    assert store.trials.current() is None


def test_nobody_goes_on_trial_twice_or_as_anything_but_a_candidate(store: Store) -> None:
    run = run_to_verdict(store)
    with pytest.raises(IllegalTransitionError):
        begin(store, run.generation, AdapterState.RETIRED)
    begin(store, run.generation)
    with pytest.raises(IllegalTransitionError, match="is canary: it cannot go on trial"):
        begin(store, run.generation)
    with pytest.raises(IllegalTransitionError, match="is live: it cannot go on trial"):
        begin(store, 0)


def test_the_database_itself_refuses_a_second_trial_and_one_without_a_verdict(store: Store) -> None:
    run = run_to_verdict(store)
    begin(store, run.generation)
    store.runs.rejected(run.id, reason="flagged rose")
    rejected = run_to_verdict(store, accepted=False)
    with pytest.raises(IntegrityError):
        force(
            store,
            "INSERT INTO trials (generation, run_id, accepted, share, concurrency, started_at) "
            "VALUES (:generation, :run, TRUE, 0.1, 1, '2026-01-01 00:00:00')",
            generation=rejected.generation,
            run=rejected.id,
        )


def test_figures_of_shadows_add_up_over_processes_and_repeat_harmlessly(store: Store) -> None:
    run = run_to_verdict(store)
    first = ShadowFigures(pairs=10, errors=1, live_errors=2, seconds=3.0, live_seconds=2.0, dropped=4)
    for _ in range(2):
        store.trials.saw_shadows("first", {run.generation: first, 99: first})
    store.trials.saw_shadows("second", {run.generation: ShadowFigures(pairs=5, seconds=1.5, live_seconds=1.0)})
    assert store.trials.shadowed(run.generation) == ShadowFigures(
        pairs=15, errors=1, live_errors=2, seconds=4.5, live_seconds=3.0, dropped=4
    )
    assert store.trials.shadowed(0) == ShadowFigures()
