"""The state machines, and the small derivations on records."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import pytest

from daemon.records import (
    ACTIVE_RUN_STATES,
    ADAPTER_TRANSITIONS,
    INITIAL_STATES,
    REPORT_TRANSITIONS,
    RUN_TRANSITIONS,
    Adapter,
    AdapterState,
    Report,
    ReportState,
    RunState,
    Source,
    adapter_name,
    served_name,
    utcnow,
)
from tests.fixtures.config import flagged

MACHINES: list[tuple[str, type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]]] = [
    ("reports", ReportState, REPORT_TRANSITIONS),
    ("adapters", AdapterState, ADAPTER_TRANSITIONS),
    ("runs", RunState, RUN_TRANSITIONS),
]


@pytest.mark.parametrize(("machine", "states", "transitions"), MACHINES)
def test_every_state_has_its_row_and_can_be_reached(
    machine: str, states: type[StrEnum], transitions: Mapping[StrEnum, frozenset[StrEnum]]
) -> None:
    assert set(transitions) == set(states)
    reached = set(INITIAL_STATES[machine])
    while grown := {new for state in reached for new in transitions[state]} - reached:
        reached |= grown
    assert reached == set(states)


@pytest.mark.parametrize(("machine", "states", "transitions"), MACHINES)
def test_no_state_leads_to_itself(
    machine: str, states: type[StrEnum], transitions: Mapping[StrEnum, frozenset[StrEnum]]
) -> None:
    assert all(state not in news for state, news in transitions.items())


def test_a_person_can_have_every_report_erased_and_none_comes_back() -> None:
    assert all(ReportState.ERASED in news for state, news in REPORT_TRANSITIONS.items() if state != ReportState.ERASED)
    assert REPORT_TRANSITIONS[ReportState.ERASED] == frozenset()


def test_a_run_can_fail_exactly_while_it_is_active() -> None:
    can_fail = {state for state, news in RUN_TRANSITIONS.items() if RunState.FAILED in news}
    assert can_fail == set(ACTIVE_RUN_STATES)


def test_only_a_judged_or_retired_adapter_can_go_live_and_a_rolled_back_one_never_again() -> None:
    can_go_live = {state for state, news in ADAPTER_TRANSITIONS.items() if AdapterState.LIVE in news}
    assert can_go_live == {AdapterState.CANDIDATE, AdapterState.SHADOW, AdapterState.CANARY, AdapterState.RETIRED}
    assert ADAPTER_TRANSITIONS[AdapterState.ROLLED_BACK] == frozenset()


def test_adapter_names_sort_as_their_generations() -> None:
    names = [adapter_name("aligned", generation) for generation in (2, 17, 999_999)]
    assert names == sorted(names) == ["aligned-g000002", "aligned-g000017", "aligned-g999999"]


@pytest.mark.parametrize(("generation", "name"), [(0, "base"), (17, "aligned-g000017")])
def test_the_base_generation_is_served_under_the_base_models_name(generation: int, name: str) -> None:
    now = utcnow()
    adapter = Adapter(
        generation=generation,
        name=adapter_name("aligned", generation),
        state=AdapterState.LIVE,
        run_id=None,
        created_at=now,
        updated_at=now,
    )
    assert served_name(adapter, "base") == name


@pytest.mark.parametrize(
    ("roles", "expected"), [(["user", "assistant", "user", "tool"], "2"), (["system", "tool"], "1"), (["user"], "0")]
)
def test_a_reports_prompt_is_its_last_user_message_or_else_its_last(roles: list[str], expected: str) -> None:
    messages = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    now = utcnow()
    report = Report(
        id="one",
        state=ReportState.QUEUED,
        flagged=flagged(messages=messages),
        source=Source(channel="http"),
        received_at=now,
        updated_at=now,
    )
    assert report.prompt_text == expected


def test_the_last_question_is_the_users_text_also_in_parts() -> None:
    message = flagged(messages=[{"role": "user", "content": ["a", "b"]}, {"role": "tool", "content": "c"}])
    now = utcnow()
    source = Source(channel="http")
    report = Report(id="r", state=ReportState.QUEUED, flagged=message, source=source, received_at=now, updated_at=now)
    assert report.prompt_text == "a\nb"
