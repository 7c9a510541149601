"""Canary and shadow end to end over three servers: begun, looked at, promoted or withdrawn, resumed after crashes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from connectors.messages import EventType
from connectors.vllm_plugin.trial import CONVERSATION_HEADER
from connectors.vllm_wire import ShadowFigures, Trial
from daemon.config import Config
from daemon.config.rollout import RolloutConfig
from daemon.errors import IllegalTransitionError
from daemon.labels import Names
from daemon.operations.status import status
from daemon.promotion.sequential import Rate, rise
from daemon.promotion.traffic import TrafficStage
from daemon.promotion.trial import Action, Ruling, blinded, rule_on_shadow
from daemon.records import AdapterState, IntentKind, IntentState, RunState, utcnow
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.serving import Bench
from tests.fixtures.stores import add, force, waiting_events
from tests.fixtures.traffic import answered

BASE = "aligned-g000000"
FIRST = "aligned-g000001"
SECOND = "aligned-g000002"
USERS = httpx.Client(headers={"connection": "close"}, timeout=10)  # a server waits for open connections when it stops


def policy(bench: Bench, **changes: Any) -> None:
    """The next stage goes by this policy: canary on 30 %, decided from 100 requests on."""
    values = {"mode": "canary", "share": 0.3, "min_requests": 100, "min_duration_s": 0, **changes}
    bench.rollout = RolloutConfig(**values)
    bench.stage = bench.new_stage()


def on_trial(bench: Bench, **changes: Any) -> Any:
    """Generation 1 is live, generation 2 on trial; returns its run."""
    bench.promoted()
    policy(bench, **changes)
    run = bench.promoting()
    bench.step()
    return run


def aged(bench: Bench, seconds: float) -> None:
    at = (utcnow() - timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S.%f")
    force(bench.store, "UPDATE trials SET started_at = :at", at=at)


def events(bench: Bench, kind: EventType) -> list[Any]:
    return [one for one in waiting_events(bench.store) if one.type == kind]


@pytest.mark.parametrize("mode", ["direct", "canary"])
def test_with_approval_required_a_candidate_waits_for_a_person(
    bench: Bench, make_config: Callable[..., Config], mode: str
) -> None:
    bench.promoted()
    policy(bench, mode=mode, approval="required")
    run = bench.promoting()
    for _ in range(3):
        step = bench.step()
    assert "waits for approval" in step.sentence
    assert bench.store.runs.get(run.id).state is RunState.PROMOTING
    assert (bench.store.adapters.live().name, bench.store.trials.current()) == (FIRST, None)
    view = status(bench.store, make_config(rollout={"approval": "required"}))
    assert view.approval_waits_s is not None
    assert any("Waits for approval" in sentence and "erratad promote 2" in sentence for sentence in view.summary)

    bench.store.intents.request(IntentKind.PROMOTE, actor="ann", reason="looks good", target_generation=2)
    bench.step()
    assert bench.store.adapters.live().name == SECOND
    assert status(bench.store, make_config()).approval_waits_s is None


def test_a_shadow_comes_before_the_approval(bench: Bench) -> None:
    on_trial(bench, mode="shadow", approval="required")
    current = bench.store.trials.current()
    assert current is not None
    assert current.mode is AdapterState.SHADOW
    assert "waits for approval" not in bench.step().sentence


def test_a_canary_begins_on_every_server_and_in_the_store(bench: Bench) -> None:
    run = on_trial(bench)
    trial = Trial(mode="canary", name=SECOND, share=0.3, concurrency=2)
    assert [client.state().trial for client in bench.clients] == [trial] * 3
    assert bench.live_names() == {FIRST}
    assert bench.store.adapters.get(2).state == AdapterState.CANARY
    assert bench.store.runs.get(run.id).state == RunState.PROMOTING
    [event] = events(bench, EventType.ADAPTER_ON_TRIAL)
    assert (event.subject, event.data["mode"], event.data["share"]) == (SECOND, "canary", 0.3)
    entry = bench.store.audit.entries(limit=1)[0]
    assert (entry.actor, entry.action, entry.subject) == ("erratad", "canary", SECOND)
    assert "canary on 30%: fewer than 100 requests each" in bench.step().sentence


VOUCHED = {"name": "test", "topic": "flagged", "trusted": True}


def test_the_status_shows_what_the_stage_rules_on(bench: Bench, make_config: Callable[..., Config]) -> None:
    on_trial(bench)
    answered(bench.store, 2, 120, flags=3)
    answered(bench.store, 1, 300, flags=4)
    backend = {"kafka": {"bootstrap_servers": ["broker:9092"]}, "sources": [VOUCHED]}
    now = status(bench.store, make_config(rollout=bench.rollout.model_dump(), intake=backend))
    assert now.trial is not None
    [flagged_rate, errors] = now.trial.rates
    assert (flagged_rate.candidate_events, flagged_rate.candidate_requests) == (3, 120)
    assert (flagged_rate.live_events, flagged_rate.live_requests) == (4, 300)
    evidence = rise(Rate(events=3, requests=120), Rate(events=4, requests=300), tolerance=bench.rollout.tolerance)
    assert (flagged_rate.p_value, flagged_rate.level) == (evidence.p_value, bench.rollout.alpha / 2)
    assert (errors.name, errors.candidate_events) == ("errors", 0)
    assert now.trial.course == Action.WAIT
    assert now.trial.reason in bench.step().sentence
    [sentence] = [one for one in now.summary if one.startswith("On trial: ")]
    assert sentence.startswith(f"On trial: {SECOND}, canary on 30% for ")
    assert "3 of 120" in sentence


def test_a_canary_is_blind_while_most_reports_name_no_generation_and_the_status_says_so(
    bench: Bench, make_config: Callable[..., Config]
) -> None:
    on_trial(bench)
    naming = bench.store.flags.named()[Names.GENERATION]
    add(bench.store, flagged(model="aligned"), *(flagged(model="chat") for _ in range(naming)))
    total = 2 * naming + 1
    now = status(bench.store, make_config(rollout=bench.rollout.model_dump()))
    assert now.trial is not None
    assert now.trial.reason.endswith(
        f"blind to flags: {naming + 1} of the last day's {total} reports name no generation of this model"
    )
    assert now.trial.reason in bench.step().sentence
    assert (
        f"Of the last day's reports ({total}), 1 name the alias alone (generation unknown) and {naming} name a model "
        "that is not served here."
    ) in now.summary


def test_the_status_shows_a_shadow_and_nothing_without_a_trial(
    bench: Bench, make_config: Callable[..., Config]
) -> None:
    config = make_config(rollout={"mode": "shadow", "min_requests": 10})
    assert status(bench.store, config).trial is None
    on_trial(bench, mode="shadow", min_requests=10)
    bench.store.trials.saw_shadows("epoch", {2: ShadowFigures(pairs=40, errors=1, seconds=90.0, live_seconds=40.0)})
    trial = status(bench.store, config).trial
    assert trial is not None
    [rate] = trial.rates
    assert (rate.name, rate.candidate_events, rate.candidate_requests) == ("unsound answers", 1, 40)
    assert (trial.course, trial.reason) == (Action.REJECT, "2.25 s per answer against 1.00 s")


def test_users_get_the_canary_and_their_reports_withdraw_it(bench: Bench) -> None:
    """The whole way: requests over HTTP, counts from the servers, reports by `model`, the test, the withdrawal."""
    run = on_trial(bench, min_requests=50)
    models = [_ask(bench, number) for number in range(400)]
    assert {FIRST, SECOND} == set(models)
    TrafficStage(store=bench.store, fleet=bench.fleet).step(life())
    for number, model in enumerate(models):
        if model == SECOND and number % 3:
            add(bench.store, flagged(model=model, reporter=f"user-{number}"))
    step = bench.step()
    assert step.sentence.startswith(f"{SECOND} is withdrawn: canary on 30%: flagged rose: ")
    assert bench.store.adapters.get(2).state == AdapterState.REJECTED
    assert bench.store.runs.get(run.id).state == RunState.REJECTED
    [event] = events(bench, EventType.ADAPTER_REJECTED)
    assert "flagged rose" in event.data["reason"]
    assert [client.state().trial for client in bench.clients] == [None] * 3
    assert {_ask(bench, number) for number in range(50)} == {FIRST}
    bench.step()
    assert SECOND not in bench.loaded()


def test_a_canary_that_does_well_is_promoted(bench: Bench) -> None:
    run = on_trial(bench)
    answered(bench.store, 1, 7000, flags=70)
    answered(bench.store, 2, 3000, flags=15)
    bench.step()
    assert bench.live_names() == {SECOND}
    assert bench.store.runs.get(run.id).state == RunState.PROMOTED
    [_, event] = events(bench, EventType.ADAPTER_PROMOTED)
    assert event.data["reason"].startswith("canary on 30%: below 2 times the live rates; flagged: 15 of 3000")
    assert [client.state().trial for client in bench.clients] == [None] * 3


def test_a_canary_with_risen_errors_is_withdrawn(bench: Bench) -> None:
    on_trial(bench)
    answered(bench.store, 1, 700, errors=2)
    answered(bench.store, 2, 300, errors=30)
    assert "errors rose: 30 of 300" in bench.step().sentence
    assert bench.live_names() == {FIRST}


def test_one_person_withdraws_no_canary(bench: Bench) -> None:
    on_trial(bench)
    answered(bench.store, 1, 700)
    answered(bench.store, 2, 300)
    add(bench.store, *(flagged(model=SECOND, reporter="attacker") for _ in range(100)))
    bench.step()
    assert bench.store.adapters.get(2).state == AdapterState.CANARY


def test_people_who_flag_much_favour_no_side(bench: Bench) -> None:
    """Forty people flag on both sides all the time; counted once per side, the small side would look far worse."""
    on_trial(bench)
    answered(bench.store, 1, 900)
    answered(bench.store, 2, 100)
    for number in range(40):
        first = SECOND if number % 10 == 0 else FIRST
        both = [first, FIRST, SECOND, FIRST]
        for model in both:
            add(bench.store, flagged(model=model, reporter=f"regular-{number}"))
    assert "flagged: 4 of 100 (40.0 per 1,000) by 1 principal against 36 of 900" in bench.step().sentence


def test_good_figures_do_not_promote_before_the_least_time(bench: Bench) -> None:
    on_trial(bench, min_duration_s=3600)
    answered(bench.store, 1, 7000, flags=70)
    answered(bench.store, 2, 3000, flags=15)
    bench.step()
    assert bench.live_names() == {FIRST}
    aged(bench, 3601)
    bench.step()
    assert bench.live_names() == {SECOND}


def blind_with_good_figures(bench: Bench) -> None:
    on_trial(bench)
    add(bench.store, *(flagged(model="chat") for _ in range(bench.store.flags.named()[Names.GENERATION] + 1)))
    answered(bench.store, 1, 7000, errors=70)
    answered(bench.store, 2, 3000, errors=15)


def test_a_blind_canary_waits_for_a_person_or_for_reports_that_name_a_generation(
    bench: Bench, make_config: Callable[..., Config]
) -> None:
    blind_with_good_figures(bench)
    for passed_s in (0, 86_401):
        aged(bench, passed_s)
        assert re.search("waits for approval: .*blind to flags: .*when_blind says hold", bench.step().sentence)
        assert (bench.live_names(), bench.store.adapters.get(2).state) == ({FIRST}, AdapterState.CANARY)
    view = status(bench.store, make_config(rollout=bench.rollout.model_dump()))
    assert view.approval_waits_s is not None
    assert any("a person decides" in one and "blind to flags" in one for one in view.summary)

    add(bench.store, *(flagged(model=FIRST) for _ in range(2)))
    bench.step()
    assert bench.live_names() == {SECOND}


def test_a_canary_that_is_held_no_more_waits_for_no_approval(bench: Bench, make_config: Callable[..., Config]) -> None:
    blind_with_good_figures(bench)
    bench.step()
    add(bench.store, *(flagged(model=FIRST) for _ in range(2)))
    policy(bench, min_duration_s=3600)
    assert "waits for approval" not in bench.step().sentence
    assert status(bench.store, make_config()).approval_waits_s is None


@pytest.mark.parametrize(
    ("when_blind", "action", "ruled"),
    [
        ("hold", Action.PROMOTE, Action.HOLD),
        ("promote", Action.PROMOTE, Action.PROMOTE),
        ("hold", Action.REJECT, Action.REJECT),
        ("hold", Action.WAIT, Action.WAIT),
    ],
)
def test_only_a_promotion_is_held(when_blind: str, action: Action, ruled: Action) -> None:
    config = RolloutConfig(when_blind=when_blind)  # type: ignore[arg-type]
    ruling = blinded(Ruling(action=action, reason="figures"), "9 of 10 reports", config)
    assert ruling.action is ruled
    assert ruling.reason.startswith("figures; blind to flags: 9 of 10 reports")


@pytest.mark.parametrize(("unclear", "live"), [("promote", SECOND), ("reject", FIRST)])
def test_an_unclear_canary_ends_in_time_as_the_policy_says(bench: Bench, unclear: str, live: str) -> None:
    on_trial(bench, when_unclear=unclear)
    answered(bench.store, 2, 20)
    aged(bench, 86_401)
    bench.step()
    assert bench.live_names() == {live}
    assert f"rollout.when_unclear says {unclear}" in bench.store.audit.entries(limit=1)[0].reason or unclear == "reject"
    assert bench.store.runs.active() is None


def test_a_restarted_server_takes_part_in_the_canary_again(bench: Bench) -> None:
    on_trial(bench)
    bench.fakes[1].stop()
    bench.fakes[1].start()
    bench.step()
    assert bench.clients[1].state().trial == bench.clients[0].state().trial
    models = {number: {_ask(bench, number, server=index) for index in range(3)} for number in range(20)}
    assert all(len(answers) == 1 for answers in models.values())


@pytest.mark.parametrize("call", ["load", "probe", "try_out"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_daemon_killed_while_a_canary_begins_is_resumed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, moment: str
) -> None:
    bench.promoted()
    policy(bench)
    bench.promoting()
    real = getattr(bench.clients[1], call)

    def die(*args: Any, **options: Any) -> Any:
        if moment == "after":
            real(*args, **options)
        raise KeyboardInterrupt  # stands for SIGKILL: nothing that only handles Exception runs after it

    with monkeypatch.context() as patch:
        patch.setattr(bench.clients[1], call, die)
        with pytest.raises(KeyboardInterrupt):
            bench.step()
    bench.stage = bench.new_stage()
    bench.step()
    bench.step()
    assert {client.state().trial for client in bench.clients} == {bench.clients[0].state().trial}
    assert bench.clients[0].state().trial is not None
    assert bench.store.adapters.get(2).state == AdapterState.CANARY
    assert len(events(bench, EventType.ADAPTER_ON_TRIAL)) == 1


def test_a_fresh_daemon_goes_on_with_the_canary_whatever_its_configuration_says_now(bench: Bench) -> None:
    on_trial(bench)
    bench.rollout = RolloutConfig(min_requests=100)
    bench.stage = bench.new_stage()
    assert "canary on 30%" in bench.step().sentence
    answered(bench.store, 1, 700)
    answered(bench.store, 2, 300, flags=60)
    bench.step()
    assert bench.store.adapters.get(2).state == AdapterState.REJECTED


def test_an_operator_can_end_a_canary_by_promoting(bench: Bench) -> None:
    on_trial(bench)
    intent = bench.store.intents.request(IntentKind.PROMOTE, actor="operator", reason="enough", target_generation=2)
    bench.step()
    assert bench.store.intents.get(intent.id).state == IntentState.DONE
    assert bench.live_names() == {SECOND}


def test_a_rollback_of_the_live_generation_ends_the_canary_that_was_measured_against_it(bench: Bench) -> None:
    on_trial(bench)
    bench.ask_rollback()
    bench.step()
    bench.step()
    bench.step()
    assert bench.store.adapters.get(2).state == AdapterState.REJECTED
    assert [client.state().trial for client in bench.clients] == [None] * 3
    assert bench.live_names() == {BASE}


def test_a_canary_does_not_begin_while_a_server_is_away(bench: Bench) -> None:
    bench.promoted()
    policy(bench)
    bench.fakes[2].stop()
    bench.promoting()
    assert "waits for its promotion" in bench.step().sentence
    assert bench.store.trials.current() is None


def test_a_shadow_is_promoted_on_sound_answers(bench: Bench) -> None:
    on_trial(bench, mode="shadow", share=0.5, min_requests=20, harm=10.0, alpha=0.4)
    assert {client.state().trial.mode for client in bench.clients if client.state().trial} == {"shadow"}
    assert {_ask(bench, number) for number in range(80)} == {FIRST}
    _shadowed(bench, 20)
    bench.step()
    assert bench.store.adapters.get(2).state == AdapterState.SHADOW
    aged(bench, 86_401)
    bench.step()
    assert bench.live_names() == {SECOND}


def test_a_shadow_that_answers_nothing_is_withdrawn_and_nobody_saw_it(bench: Bench) -> None:
    for fake in bench.fakes:
        fake.answer = lambda model, _messages: "" if model == SECOND else "Fine."
    on_trial(bench, mode="shadow", share=0.5, min_requests=20)
    texts = {_ask(bench, number, text=True) for number in range(120)}
    assert texts == {"Fine."}
    _shadowed(bench, 20)
    assert "shadow on 50%: unsound answers rose: " in bench.step().sentence
    assert bench.store.adapters.get(2).state == AdapterState.REJECTED


@pytest.mark.parametrize(("seconds", "course"), [(149.0, Action.WAIT), (151.0, Action.REJECT)])
def test_a_slow_shadow_is_rejected(seconds: float, course: Action) -> None:
    config = RolloutConfig(mode="shadow", min_requests=100)
    figures = ShadowFigures(pairs=100, seconds=seconds, live_seconds=100.0)
    ruling = rule_on_shadow(figures, config, age_s=10.0)
    assert ruling.action == course
    if course == Action.REJECT:
        assert ruling.reason == "1.51 s per answer against 1.00 s"


def test_only_one_candidate_with_a_verdict_goes_on_trial(bench: Bench) -> None:
    run = bench.evaluating()
    with pytest.raises(IllegalTransitionError, match="is candidate: it cannot go on trial"):
        bench.store.trials.start(run.generation, mode=AdapterState.CANARY, share=0.1, concurrency=1, actor="somebody")


def _ask(bench: Bench, number: int, *, server: int | None = None, text: bool = False) -> str:
    url = bench.fakes[number % 3 if server is None else server].url
    request = {"model": "aligned", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    headers = {CONVERSATION_HEADER: f"talk-{number}"}
    answer = USERS.post(f"{url}/v1/chat/completions", json=request, headers=headers).json()
    return answer["choices"][0]["message"]["content"] if text else answer["model"]


def _shadowed(bench: Bench, pairs: int) -> None:
    """Copies are asked for two at a time and server: ask on until enough of them were answered."""
    stage = TrafficStage(store=bench.store, fleet=bench.fleet)
    for number in range(1000, 3000):
        stage.step(life())
        if bench.store.trials.shadowed(2).pairs >= pairs:
            return
        _ask(bench, number)
    raise AssertionError(f"only {bench.store.trials.shadowed(2)}")
