"""Promotion, rollback and reconciliation over three fake servers that speak the real protocol."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connectors.chat import EndpointError
from connectors.vllm import AliasConflict
from connectors.vllm_wire import ProbeResult
from daemon.adapter_names import strength_name
from daemon.errors import IllegalTransitionError, PromotionError
from daemon.operations.commands import reject_candidate
from daemon.promotion.stage import GIVE_UP_AFTER_S, GIVE_UP_ATTEMPTS
from daemon.records import AdapterState, IntentKind, IntentState, ReportState, RunState, utcnow
from daemon.transitions import ADAPTER_TRANSITIONS
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.serving import Bench, answer
from tests.fixtures.stores import learn

BASE = "aligned-g000000"
FIRST = "aligned-g000001"
SECOND = "aligned-g000002"
ASK = [{"role": "user", "content": "hello"}]


def test_an_accepted_candidate_goes_live_on_every_server_and_in_the_store(bench: Bench) -> None:
    run = bench.promoting()
    step = bench.step()
    assert step.worked
    assert step.sentence.startswith(f"{FIRST} is live on 3 servers after ")
    assert bench.live_names() == {FIRST}
    assert bench.store.adapters.live().name == FIRST
    ended = bench.store.runs.get(run.id)
    assert ended.state == RunState.PROMOTED
    assert 0 < ended.progress["swap_seconds"] < 60
    assert bench.clients[0].chat("aligned", ASK, max_tokens=5).model == FIRST


def test_reports_are_settled_by_what_the_run_found_out(bench: Bench) -> None:
    fixed, broken, unmeasured = learn(bench.store, *(flagged() for _ in range(3)))
    run = bench.promoting(passed={fixed: True, broken: False, unmeasured: None})
    bench.store.runs.save_answers([answer(run.id, unmeasured, arm=FIRST, passed=True)])
    assert bench.store.reports.get(fixed).state == ReportState.LESSON
    bench.step()
    states = {report: bench.store.reports.get(report).state for report in (fixed, broken, unmeasured)}
    assert states == {
        fixed: ReportState.RESOLVED,
        broken: ReportState.RECURRING,
        unmeasured: ReportState.LESSON,
    }
    assert bench.store.reports.get(fixed).resolved_generation == 1


def test_a_load_that_one_server_refuses_flips_none_and_fails_the_run(bench: Bench) -> None:
    bench.fakes[2].unusable[FIRST] = "rank too high"
    run = bench.promoting()
    bench.step()
    ended = bench.store.runs.get(run.id)
    assert ended.state == RunState.FAILED
    assert "rank too high" in str(ended.reason)
    assert bench.clients[2].url in str(ended.reason)
    assert bench.live_names() == {BASE}
    bench.step()
    assert [bench.loaded(index) for index in range(3)] == [set(), set(), set()]


@pytest.mark.parametrize("then", ["the swap would have worked", "the swap fails"])
def test_an_operator_may_reject_a_candidate_while_it_is_swapped_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    run = bench.promoting()

    def rejected_meanwhile(*_: object) -> None:
        if bench.store.runs.get(run.id).state == RunState.PROMOTING:
            reject_candidate(bench.store, run.generation, actor="ann", reason="not now")
        if then == "the swap fails":
            raise PromotionError("the probe fails")

    monkeypatch.setattr("daemon.promotion.stage.load_and_probe", rejected_meanwhile)
    bench.step()
    bench.step()
    assert bench.store.runs.get(run.id).state == RunState.REJECTED
    assert bench.store.adapters.live().name == BASE
    assert bench.live_names() == {BASE}


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"finite": False}, "NaN or infinity"),
        ({"differs_from_base": False}, "exactly as the base model"),
        ({}, "fails its probe"),
    ],
)
def test_a_probe_that_fails_on_one_server_fails_the_run(bench: Bench, probe: dict[str, bool], words: str) -> None:
    values = {"finite": True, "differs_from_base": True, **probe}
    bench.fakes[1].probes[FIRST] = ProbeResult(ok=False, text="probe", **values)
    run = bench.promoting()
    bench.step()
    assert bench.store.runs.get(run.id).state == RunState.FAILED
    assert words in str(bench.store.adapters.get(run.generation).reason)
    assert bench.live_names() == {BASE}


def test_a_folder_that_is_not_sound_never_reaches_a_server(bench: Bench) -> None:
    run = bench.promoting()
    (Path(str(bench.store.adapters.get(run.generation).path)) / "adapter_config.json").unlink()
    bench.step()
    assert bench.store.runs.get(run.id).state == RunState.FAILED
    assert bench.store.adapters.get(run.generation).state == AdapterState.FAILED
    assert [bench.loaded(index) for index in range(3)] == [set(), set(), set()]


def test_a_promotion_waits_for_a_server_that_is_down(bench: Bench) -> None:
    bench.step()
    bench.fakes[1].stop()
    run = bench.promoting()
    step = bench.step()
    assert not step.worked
    assert bench.clients[1].url in step.sentence
    assert bench.store.runs.get(run.id).state == RunState.PROMOTING
    assert bench.live_names() == {BASE}
    bench.fakes[1].start()
    _until_settled(bench)
    assert bench.live_names() == {FIRST}
    assert bench.store.runs.get(run.id).state == RunState.PROMOTED


def test_a_promotion_that_cannot_work_for_long_ends_the_run_with_its_reason(bench: Bench) -> None:
    bench.fakes[1].stop()
    run = bench.promoting(decided_at=utcnow() - timedelta(seconds=GIVE_UP_AFTER_S + 60))
    for _ in range(GIVE_UP_ATTEMPTS - 1):
        _try_once(bench)
        assert bench.store.runs.get(run.id).state == RunState.PROMOTING
    _try_once(bench)
    ended = bench.store.runs.get(run.id)
    assert ended.state == RunState.FAILED
    assert bench.clients[1].url in str(ended.reason)


def test_a_flip_that_one_server_refuses_is_undone_on_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.step()
    run = bench.promoting()

    def refuse(name: str, *, expected: str | None) -> None:
        raise AliasConflict("somebody else flipped", transient=False, status=409)

    monkeypatch.setattr(bench.clients[2], "set_live", refuse)
    step = bench.step()
    assert "somebody else flipped" in step.sentence
    assert bench.live_names() == {BASE}
    assert bench.store.runs.get(run.id).state == RunState.PROMOTING


def test_a_flip_whose_answer_is_lost_is_undone_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.step()
    bench.promoting()
    flip = bench.clients[2].set_live
    lost: list[str] = []

    def lose_the_answer(name: str, *, expected: str | None) -> None:
        flip(name, expected=expected)
        if name == FIRST and not lost:
            lost.append(name)
            raise EndpointError("no answer in time", transient=True)

    monkeypatch.setattr(bench.clients[2], "set_live", lose_the_answer)
    bench.step()
    assert lost
    assert bench.live_names() == {BASE}
    assert bench.store.adapters.live().name == BASE


def test_a_live_generation_that_changes_before_the_commit_undoes_the_flips(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promoted()
    run = bench.promoting()
    flip = bench.clients[2].set_live

    def flip_as_another_daemon_rolls_back(name: str, *, expected: str | None) -> None:
        flip(name, expected=expected)
        if name == SECOND:
            bench.store.adapters.roll_back(0, expected_live=1, actor="other", reason="bad")

    monkeypatch.setattr(bench.clients[2], "set_live", flip_as_another_daemon_rolls_back)
    bench.step()
    assert bench.live_names() == {FIRST}
    _until_settled(bench)
    assert bench.live_names() == {BASE}
    assert bench.store.runs.get(run.id).state == RunState.REJECTED


def test_a_candidate_measured_against_another_generation_is_rejected(bench: Bench) -> None:
    bench.promoted()
    run = bench.promoting()
    bench.store.adapters.roll_back(0, expected_live=1, actor="operator", reason="bad")
    step = bench.step()
    assert "measured against generation 1, but 0 is live now" in step.sentence
    assert bench.store.runs.get(run.id).state == RunState.REJECTED
    assert bench.live_names() == {BASE}


def test_the_previous_generation_stays_loaded_and_older_ones_go(bench: Bench) -> None:
    for _ in range(3):
        bench.promoted()
    bench.step()
    assert bench.loaded() == {SECOND, "aligned-g000003"}


def test_the_previous_generation_goes_where_it_is_not_to_be_kept(bench: Bench) -> None:
    bench.stage = bench.new_stage(keep_previous=False)
    bench.promoted()
    bench.promoted()
    bench.step()
    assert bench.loaded() == {SECOND}


def test_a_candidate_under_evaluation_stays_loaded(bench: Bench) -> None:
    run = bench.evaluating()
    bench.fleet.ensure_loaded(bench.store.adapters.get(run.generation))
    bench.step()
    assert bench.loaded() == {FIRST}
    bench.store.runs.failed(run.id, reason="no memory")
    bench.step()
    assert bench.loaded() == set()


def test_a_weaker_candidate_stays_loaded_while_it_is_measured(bench: Bench) -> None:
    run = bench.evaluating()
    candidate = bench.store.adapters.get(run.generation)
    weaker = replace(candidate, name=strength_name(candidate.name, 0.75))
    bench.fleet.ensure_loaded(weaker)
    bench.step()
    assert bench.loaded() == {weaker.name}
    bench.store.runs.failed(run.id, reason="no memory")
    bench.step()
    assert bench.loaded() == set()


def test_an_adapter_is_unloaded_only_when_its_requests_have_ended(bench: Bench) -> None:
    bench.stage = bench.new_stage(keep_previous=False)
    bench.promoted()
    bench.fakes[0].token_delay_s = 0.2
    answers: list[str] = []

    def ask() -> None:
        answers.append(bench.clients[0].chat("aligned", ASK, max_tokens=3).model)

    asking = threading.Thread(target=ask)
    asking.start()
    _until(lambda: bench.clients[0].state().adapters.get(FIRST) == 1)
    bench.promoted()
    bench.step()
    assert FIRST in bench.loaded()
    asking.join()
    assert answers == [FIRST]
    bench.step()
    assert bench.loaded() == {SECOND}


def test_a_rollback_to_a_warm_generation_takes_well_under_a_second(bench: Bench) -> None:
    [report] = learn(bench.store, flagged())
    bench.promoted()
    bench.promoted(passed={report: True})
    assert bench.store.reports.get(report).state == ReportState.RESOLVED
    verified = len(bench.verified)
    intent = bench.ask_rollback()
    begun = time.monotonic()
    bench.step()
    assert time.monotonic() - begun < 1
    assert bench.live_names() == {FIRST}
    assert bench.store.adapters.live().name == FIRST
    assert bench.store.adapters.get(2).state == AdapterState.ROLLED_BACK
    assert bench.store.intents.get(intent).state == IntentState.DONE
    assert bench.store.reports.get(report).state == ReportState.RECURRING
    assert len(bench.verified) == verified
    bench.step()
    assert bench.loaded() == {FIRST}


def test_a_rollback_loads_a_generation_that_is_no_longer_there(bench: Bench) -> None:
    bench.stage = bench.new_stage(keep_previous=False)
    bench.promoted()
    bench.promoted()
    bench.step()
    assert bench.loaded() == {SECOND}
    bench.ask_rollback()
    bench.step()
    assert bench.live_names() == {FIRST}


def test_a_rollback_from_the_first_generation_reaches_the_base_model(bench: Bench) -> None:
    bench.promoted()
    bench.ask_rollback()
    bench.step()
    assert bench.live_names() == {BASE}
    assert bench.store.adapters.live().generation == 0


def test_a_rollback_can_name_an_older_generation(bench: Bench) -> None:
    [report] = learn(bench.store, flagged())
    bench.promoted()
    bench.promoted(passed={report: True})
    bench.promoted()
    bench.ask_rollback(1)
    bench.step()
    assert bench.live_names() == {FIRST}
    assert bench.store.reports.get(report).state == ReportState.RECURRING
    previous = bench.store.adapters.previous()
    assert previous is not None
    assert previous.generation == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [(None, "nothing to roll back to"), (0, "it is the one asked for"), (7, "no generation 7")],
)
def test_an_impossible_rollback_is_refused_with_its_reason(bench: Bench, target: int | None, words: str) -> None:
    intent = bench.ask_rollback(target)
    bench.step()
    done = bench.store.intents.get(intent)
    assert done.state == IntentState.REFUSED
    assert words in str(done.outcome)
    assert bench.store.adapters.live().generation == 0


def test_a_generation_that_was_rolled_back_never_goes_live_again(bench: Bench) -> None:
    bench.promoted()
    bench.ask_rollback()
    bench.step()
    intent = bench.ask_rollback(1)
    bench.step()
    done = bench.store.intents.get(intent)
    assert (done.state, bench.live_names()) == (IntentState.REFUSED, {BASE})
    assert "rolled-back" in str(done.outcome)


def test_a_server_with_the_plugin_of_an_older_erratad_serves_and_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promoted()
    parse = bench.clients[1]._parse
    monkeypatch.setattr(
        bench.clients[1],
        "_parse",
        lambda response: {key: value for key, value in parse(response).items() if key != "interface"},
    )
    assert bench.step().sentence == (
        f"{FIRST} is live on 3 of 3 servers; {bench.clients[1].url} runs the plugin of an older erratad, which leaves "
        "routes such as /tokenize open without a key; install this version there and restart the server"
    )


@pytest.mark.parametrize("paused", [False, True])
def test_a_rollback_is_taken_up_at_the_next_look_without_waiting_for_a_reconcile(bench: Bench, *, paused: bool) -> None:
    bench.stage = bench.new_stage(reconcile_interval_s=3600)
    assert bench.stage.idle_s <= 0.25
    look = bench.stage.step_while_paused if paused else bench.stage.step
    bench.promoted()
    assert look(life()).sentence == f"{FIRST} is live on 3 of 3 servers"
    bench.clients[1].set_live(BASE, expected=FIRST)
    assert look(life()).sentence == f"{FIRST} is live on 3 of 3 servers"
    assert bench.live_names() == {BASE, FIRST}, "a reconcile came before its time"
    intent = bench.ask_rollback()
    step = look(life())
    assert (step.worked, bench.store.intents.get(intent).state) == (True, IntentState.DONE)
    assert bench.live_names() == {BASE}


def test_a_promotion_that_cannot_work_is_tried_once_per_reconcile(bench: Bench) -> None:
    bench.stage = bench.new_stage(reconcile_interval_s=3600)
    bench.fakes[1].stop()
    run = bench.promoting()
    said = bench.step().sentence
    assert bench.clients[1].url in said
    assert [bench.step().sentence for _ in range(3)] == [said] * 3
    assert bench.stage._attempts == (run.id, 1)


def test_a_rolled_back_generation_is_refused_by_stage_and_store(bench: Bench) -> None:
    run = bench.promoting()
    bench.step()
    bench.ask_rollback()
    bench.step()
    assert AdapterState.LIVE not in ADAPTER_TRANSITIONS[AdapterState.ROLLED_BACK]
    intent = bench.store.intents.request(
        IntentKind.PROMOTE, actor="operator", reason="again", target_generation=run.generation
    )
    bench.step()
    done = bench.store.intents.get(intent.id)
    assert done.state == IntentState.REFUSED
    assert "generation 1 is rolled-back" in str(done.outcome)
    with pytest.raises(IllegalTransitionError, match="rolled-back"):
        bench.store.adapters.promote(run.generation, expected_live=0, actor="operator", reason="again")
    assert (bench.store.adapters.live().generation, bench.live_names()) == (0, {BASE})


def test_a_candidate_cannot_slip_past_the_gate_as_a_rollback(bench: Bench) -> None:
    run = bench.evaluating()
    intent = bench.ask_rollback(run.generation)
    bench.step()
    assert bench.store.intents.get(intent).state == IntentState.REFUSED
    assert bench.store.adapters.live().generation == 0


def test_a_rollback_does_not_wait_for_a_server_that_is_down(bench: Bench) -> None:
    bench.promoted()
    bench.fakes[1].stop()
    intent = bench.ask_rollback()
    bench.step()
    assert bench.store.intents.get(intent).state == IntentState.DONE
    assert bench.live_names() == {BASE}
    bench.fakes[1].start()
    _until_settled(bench)
    assert [client.state().live for client in bench.clients] == [BASE] * 3


def test_a_rollback_works_while_no_server_runs_at_all(bench: Bench) -> None:
    bench.promoted()
    for fake in bench.fakes:
        fake.stop()
    bench.ask_rollback()
    bench.step()
    assert bench.store.adapters.live().generation == 0


def test_a_rollback_to_a_folder_that_is_gone_leaves_the_live_generation(bench: Bench) -> None:
    bench.stage = bench.new_stage(keep_previous=False)
    bench.promoted()
    bench.promoted()
    bench.step()
    (Path(str(bench.store.adapters.get(1).path)) / "adapter_config.json").unlink()
    intent = bench.ask_rollback()
    bench.step()
    done = bench.store.intents.get(intent)
    assert done.state == IntentState.REFUSED
    assert f"{SECOND} stays live" in str(done.outcome)
    assert bench.live_names() == {SECOND}


def test_a_rollback_is_not_held_up_by_a_server_that_does_not_flip(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.promoted()

    def hang(name: str, *, expected: str | None) -> None:
        raise EndpointError("no answer in time", transient=True)

    with monkeypatch.context() as patch:
        patch.setattr(bench.clients[1], "set_live", hang)
        bench.ask_rollback()
        bench.step()
        assert [client.state().live for client in bench.clients] == [BASE, FIRST, BASE]
    bench.step()
    assert bench.live_names() == {BASE}


def test_an_operator_can_have_a_waiting_candidate_promoted_at_once(bench: Bench) -> None:
    run = bench.promoting()
    intent = bench.store.intents.request(
        IntentKind.PROMOTE, actor="operator", reason="now", target_generation=run.generation
    )
    bench.step()
    assert bench.store.intents.get(intent.id).state == IntentState.DONE
    assert bench.live_names() == {FIRST}
    assert bench.store.audit.entries(limit=1)[0].actor == "operator"


@pytest.mark.parametrize(
    ("target", "words"), [(1, "generation 1 is candidate"), (9, "no generation 9"), (None, "is still evaluating")]
)
def test_what_did_not_pass_the_gate_is_not_promoted_on_request(bench: Bench, target: int | None, words: str) -> None:
    bench.evaluating()
    intent = bench.store.intents.request(IntentKind.PROMOTE, actor="operator", reason="now", target_generation=target)
    bench.step()
    done = bench.store.intents.get(intent.id)
    assert done.state == IntentState.REFUSED
    assert words in str(done.outcome)
    assert bench.live_names() == {BASE}


def test_a_restarted_server_answers_under_the_alias_only_as_the_live_generation(bench: Bench) -> None:
    bench.promoted()
    bench.fakes[0].stop()
    bench.fakes[0].start()
    _until(bench.clients[0].ready)
    with pytest.raises(EndpointError, match="no generation is live"):
        bench.clients[0].chat("aligned", ASK, max_tokens=5)
    bench.step()
    assert bench.clients[0].chat("aligned", ASK, max_tokens=5).model == FIRST


def test_a_server_that_fails_the_probe_after_its_restart_stays_closed(bench: Bench) -> None:
    bench.promoted()
    bench.fakes[0].stop()
    bench.fakes[0].probes[FIRST] = ProbeResult(ok=False, finite=True, differs_from_base=False, text="probe")
    bench.fakes[0].start()
    _until(bench.clients[0].ready)
    step = bench.step()
    assert "exactly as the base model" in step.sentence
    assert bench.clients[0].state().live is None
    assert {bench.clients[index].state().live for index in (1, 2)} == {FIRST}


def test_a_server_that_somebody_flipped_is_brought_back(bench: Bench) -> None:
    bench.promoted()
    bench.clients[1].set_live(BASE, expected=FIRST)
    step = bench.step()
    assert step.sentence == f"{FIRST} is live on 3 of 3 servers"
    assert bench.live_names() == {FIRST}


def _try_once(bench: Bench) -> None:
    attempts = bench.stage._attempts
    _until(lambda: bool(bench.step()) and bench.stage._attempts != attempts)


def _until_settled(bench: Bench) -> None:
    def settled() -> bool:
        bench.step()
        live = bench.store.adapters.live().name
        return all(client.ready() and client.state().live == live for client in bench.clients) and (
            bench.store.runs.active() is None
        )

    _until(settled)


def _until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        time.sleep(0.01)
