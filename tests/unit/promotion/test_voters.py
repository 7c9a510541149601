"""Whose flags count by the policy, and how many votes decide."""

from __future__ import annotations

import pytest

from daemon.config.trust import TrustConfig
from daemon.labels import Grade
from daemon.promotion.voters import electorate, votes_needed
from daemon.records import Evidence
from daemon.trust.policy import Policy


@pytest.mark.parametrize(
    ("grade", "counted"),
    [
        (Grade.CLAIMED, {Evidence.CLAIMED, Evidence.REPRODUCED, Evidence.VERIFIED}),
        (Grade.REPRODUCED, {Evidence.REPRODUCED, Evidence.VERIFIED}),
        (Grade.VERIFIED, {Evidence.VERIFIED}),
        (Grade.CORROBORATED, {Evidence.VERIFIED}),
        (Grade.REVIEWED, {Evidence.VERIFIED}),
    ],
)
def test_the_policy_says_which_evidence_a_flag_needs(grade: Grade, counted: set[Evidence]) -> None:
    voters = electorate(Policy(TrustConfig(watch=grade), trusted=["app"]))
    assert voters.evidence == counted
    assert (voters.is_trusted("app"), voters.is_trusted("anyone")) == (True, False)


@pytest.mark.parametrize("requests", [500, 100_000])
def test_the_least_votes_that_decide_do_not_depend_on_the_traffic(requests: int) -> None:
    assert votes_needed(requests, requests, level=0.005, tolerance=1.1) == 12
    assert votes_needed(5, 5, level=0.005, tolerance=1.1) == 6
