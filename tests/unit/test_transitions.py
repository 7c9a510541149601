"""The state machines."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import pytest

from daemon.records import (
    ACTIVE_RUN_STATES,
    AdapterState,
    ReportState,
    RunState,
)
from daemon.transitions import ADAPTER_TRANSITIONS, INITIAL_STATES, REPORT_TRANSITIONS, RUN_TRANSITIONS

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


def test_only_a_judged_or_retired_adapter_can_go_live_and_a_rolled_back_one_only_as_a_retired_one() -> None:
    can_go_live = {state for state, news in ADAPTER_TRANSITIONS.items() if AdapterState.LIVE in news}
    assert can_go_live == {AdapterState.CANDIDATE, AdapterState.SHADOW, AdapterState.CANARY, AdapterState.RETIRED}
    assert ADAPTER_TRANSITIONS[AdapterState.ROLLED_BACK] == {AdapterState.RETIRED}
