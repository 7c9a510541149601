"""Automatic rollback: its causes, non-causes, and that it takes the operator's path."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from connectors.messages import EventType
from daemon.config.rollout import WatchConfig
from daemon.errors import IllegalTransitionError
from daemon.labels import Names
from daemon.operations import commands
from daemon.promotion.watch import WatchStage
from daemon.records import AdapterState, Evidence, IntentKind, IntentState, Source, utcnow
from daemon.runtime.stage import Step
from daemon.store.flags import Electorate
from daemon.store.traffic import STEP
from tests.fixtures.config import flagged
from tests.fixtures.life import life
from tests.fixtures.serving import Bench
from tests.fixtures.stores import add, force, waiting_events
from tests.fixtures.traffic import EVERYBODY, answered

BASE = "aligned-g000000"
FIRST = "aligned-g000001"
SECOND = "aligned-g000002"


def look(bench: Bench, voters: Electorate = EVERYBODY, **changes: Any) -> Step:
    config = WatchConfig(min_requests=100, **changes)
    return WatchStage(store=bench.store, config=config, voters=voters).step(life())


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
    new, old = "50 of 2000 (25.0 per 1,000) by 50 principals", "10 of 2000 (5.0 per 1,000) by 10 principals"
    assert f"flagged: {new} against {old}, p = " in entry.reason
    [event] = [one for one in waiting_events(bench.store) if one.type == EventType.ADAPTER_ROLLED_BACK]
    assert event.subject == SECOND
    assert event.data["reason"] == entry.reason
    assert _rollbacks("flagged") == rollbacks + 1
    again = bench.store.intents.request(IntentKind.PROMOTE, actor="operator", reason="try", target_generation=2)
    bench.step()
    assert bench.store.intents.get(again.id).state == IntentState.REFUSED


def test_what_was_rolled_back_goes_live_again_when_a_person_approves_it_and_is_watched_again(bench: Bench) -> None:
    promoted_twice(bench)
    answered(bench.store, 2, 2000, flags=50)
    look(bench)
    bench.step()
    assert bench.live_names() == {FIRST}
    commands.approve(bench.store, 2, actor="admin", reason="the flags were forged")
    bench.step()
    assert bench.live_names() == {SECOND}
    actions = [(one.actor, one.action, one.reason) for one in bench.store.audit.entries(limit=4)]
    assert actions[0] == ("admin", "promoted", "approved again: the flags were forged")
    assert ("admin", "approved", "the flags were forged") in actions
    answered(bench.store, 2, 2000, flags=10)
    assert f"{SECOND} against {FIRST}: " in look(bench).sentence


def test_an_approval_needs_a_reason(bench: Bench) -> None:
    promoted_twice(bench)
    bench.ask_rollback()
    bench.step()
    with pytest.raises(IllegalTransitionError, match="give the reason"):
        commands.approve(bench.store, 2, actor="admin", reason=" ")
    assert bench.store.adapters.get(2).state == AdapterState.ROLLED_BACK


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
    assert "flagged: 20 of 1000 (20.0 per 1,000) by 1 principal against 20 of 1000" in look(bench).sentence


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


NOBODY = Electorate(is_trusted=lambda _principal: False, evidence=frozenset(Evidence))
RECORDED = Electorate(is_trusted=lambda _principal: False, evidence=frozenset({Evidence.VERIFIED}))
"""Nobody is trusted, and only what the server recorded counts: not the reports that the bench's runs learned from."""
APP = Electorate(is_trusted="app".__eq__, evidence=frozenset(Evidence))
"""The operator vouches for the backend alone."""


def flag(bench: Bench, generation: str, principal: str, count: int, evidence: Evidence = Evidence.CLAIMED) -> None:
    """Flags of as many reporters of one principal."""
    messages = [flagged(model=generation, reporter=f"user-{number}") for number in range(count)]
    source = Source(channel="test", principal=principal)
    bench.store.reports.add([(message, source) for message in messages], reporter_cap=999)
    for message in messages:
        force(bench.store, "UPDATE reports SET evidence = :to WHERE id = :id", to=evidence.value, id=message.id)


def asked(bench: Bench) -> bool:
    return bench.store.intents.pending(IntentKind.ROLLBACK) is not None


def quiet_twice(bench: Bench, requests: int) -> None:
    """Two generations that answered as many requests each, without a flag."""
    bench.promoted()
    answered(bench.store, 1, requests)
    bench.promoted()
    answered(bench.store, 2, requests)


@pytest.mark.parametrize("requests", [200, 2000, 100_000])
@pytest.mark.parametrize("voters", [NOBODY, APP], ids=["no-trust", "trusted-backend"])
def test_names_of_one_principal_force_no_rollback_at_any_traffic(
    bench: Bench, requests: int, voters: Electorate
) -> None:
    """12 names did, where neither window had an honest flag."""
    quiet_twice(bench, requests)
    flag(bench, SECOND, "anyone", 12)
    flag(bench, SECOND, "anyone", 300)
    assert f"flagged: 1 of {requests}" in look(bench, voters).sentence
    assert not asked(bench)


def test_twelve_people_of_a_trusted_backend_do(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    flag(bench, SECOND, "app", 12)
    assert "flagged: 12 of 2000 (6.0 per 1,000) by 1 principal" in look(bench, APP).sentence
    assert asked(bench)


def test_flags_whose_answers_the_server_recorded_count_per_reporter_where_no_other_principal_flags(
    bench: Bench,
) -> None:
    quiet_twice(bench, 2000)
    flag(bench, SECOND, "anyone", 12, Evidence.VERIFIED)
    look(bench, RECORDED)
    assert asked(bench)


def test_recorded_answers_of_one_principal_without_trust_force_no_rollback_against_others(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    flag(bench, FIRST, "site", 1, Evidence.VERIFIED)  # another principal flags answers, too
    flag(bench, SECOND, "anyone", 50, Evidence.VERIFIED)
    assert "flagged: 6 of 2000 (3.0 per 1,000) by 1 principal" in look(bench, RECORDED).sentence
    assert not asked(bench)
    flag(bench, SECOND, "site", 50, Evidence.VERIFIED)
    flag(bench, SECOND, "shop", 50, Evidence.VERIFIED)
    look(bench, RECORDED)
    assert asked(bench)  # three principals agree


def test_a_watch_that_the_bounds_of_all_principals_keep_from_deciding_says_so(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    flag(bench, SECOND, "anyone", 50, Evidence.VERIFIED)
    flag(bench, SECOND, "site", 50)
    sentence = look(bench, NOBODY).sentence
    assert "flagged: 7 of 2000" in sentence
    assert "blind to flags: 3 principals without trust" in sentence  # also the one of the reports that were learned
    assert "one vote, or 6 with recorded answers" in sentence


def test_fake_flags_on_the_old_generation_hide_no_tripled_rate(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    flag(bench, FIRST, "app", 20)
    flag(bench, SECOND, "app", 60)
    flag(bench, FIRST, "anyone", 500)
    assert "60 of 2000 (30.0 per 1,000) by 1 principal against 21 of 2000 (10.5 per 1,000) by 2 principals" in (
        look(bench, APP).sentence
    )
    assert asked(bench)


def test_a_flag_that_the_record_contradicts_counts_for_nobody_and_one_below_the_policy_for_no_untrusted_one(
    bench: Bench,
) -> None:
    quiet_twice(bench, 2000)
    flag(bench, SECOND, "app", 3, Evidence.CONTRADICTED)
    flag(bench, SECOND, "anyone", 3)
    needs = Electorate(is_trusted="app".__eq__, evidence=frozenset({Evidence.REPRODUCED, Evidence.VERIFIED}))
    assert "flagged: 0 of 2000 (0.0 per 1,000) by 0 principals" in look(bench, needs).sentence
    flag(bench, SECOND, "site", 3, Evidence.REPRODUCED)
    assert "flagged: 1 of 2000 (0.5 per 1,000) by 1 principal" in look(bench, needs).sentence


def test_a_watch_that_too_few_can_speak_to_says_that_it_is_blind_and_watches_errors(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    for number in range(3):
        flag(bench, SECOND, f"p{number}", 5)
    sentence = look(bench, NOBODY).sentence
    assert sentence.endswith(
        "blind to flags: 4 principals without trust flagged answers in 30 days, each has one vote, and fewer than 12 "
        "votes decide nothing: name trusted sources (intake.sources) or keep exchanges"
    )
    assert REGISTRY.get_sample_value("erratad_watch_blind") == 1
    for number in range(8):
        answered(bench.store, 2, 200, errors=40, at=utcnow() + number * STEP)
    assert "errors: " in look(bench, NOBODY).sentence
    assert asked(bench)
    look(bench, NOBODY)
    assert REGISTRY.get_sample_value("erratad_watch_blind") == 0


def test_a_watch_is_blind_while_most_reports_name_no_generation(bench: Bench) -> None:
    quiet_twice(bench, 2000)
    naming = bench.store.flags.named()[Names.GENERATION]
    flag(bench, "chat", "app", naming + 2)
    flag(bench, FIRST, "app", 1)
    assert look(bench, APP).sentence.endswith(
        f"blind to flags: {naming + 2} of the last day's {2 * naming + 3} reports name no generation of this model"
    )
    assert REGISTRY.get_sample_value("erratad_watch_blind") == 1
    flag(bench, SECOND, "app", 1)
    assert "blind" not in look(bench, APP).sentence


@pytest.mark.parametrize("evidence", [Evidence.VERIFIED, Evidence.CLAIMED])
def test_a_watch_with_a_trusted_source_or_verified_flags_is_not_blind(bench: Bench, evidence: Evidence) -> None:
    quiet_twice(bench, 2000)
    flag(bench, FIRST, "app", 1, evidence)
    sentence = look(bench, RECORDED if evidence is Evidence.VERIFIED else APP).sentence
    assert "blind" not in sentence
    assert REGISTRY.get_sample_value("erratad_watch_blind") == 0


@pytest.mark.parametrize(
    ("changes", "words"), [({"enabled": False}, "switched off"), ({}, "no generation was live before")]
)
def test_it_rests_where_there_is_nothing_to_watch(bench: Bench, changes: dict[str, bool], words: str) -> None:
    assert words in look(bench, **changes).sentence


def _rollbacks(rate: str) -> float:
    return REGISTRY.get_sample_value("erratad_automatic_rollbacks_total", {"rate": rate}) or 0.0
