"""A report before the policy, with what others report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from daemon.config.trust import TrustConfig
from daemon.labels import Grade
from daemon.parts import Part
from daemon.records import Evidence
from daemon.trust.policy import Policy
from daemon.trust.standing import Standings
from tests.unit.trust.test_corroboration import ALSO_RIGHT, RIGHT, part
from tests.unit.trust.test_policy import corrected, report


@dataclass
class Known:
    """Facts that a test gives."""

    count: int = 2
    voices: dict[int, Sequence[Part]] = field(default_factory=dict)

    def active(self, *, days: int) -> int:
        assert days == 30
        return self.count

    def of_clusters(self, cluster_ids: Collection[int]) -> Mapping[int, Sequence[Part]]:
        return {number: self.voices[number] for number in cluster_ids if number in self.voices}


def standings(**facts: object) -> Standings:
    return Standings(Policy(TrustConfig(), trusted=["vouched"]), Known(**facts))  # type: ignore[arg-type]


def test_before_the_analysis_only_the_first_decision_is_there() -> None:
    found = standings().of(report(), None)
    assert (found.grade, found.may_analyse.allowed, found.analysis, found.waits) == (Grade.CLAIMED, True, None, None)


def test_a_report_that_waits_says_for_what() -> None:
    assert standings().of(report(), corrected()).waits == "it waits for evidence that the model gave this answer"
    verified = standings().of(report(Evidence.VERIFIED), corrected())
    assert verified.waits == "its correction waits for another source, a judge or a reviewer to confirm it"
    plain = corrected(correction=None, correction_source=None)
    assert standings().of(report(Evidence.VERIFIED), plain).waits is None


def test_a_voice_of_the_same_cluster_corroborates_and_one_of_another_does_not() -> None:
    one = replace(report(Evidence.REPRODUCED, correction=RIGHT), cluster_id=7)
    voice = [part(1, "b", correction=ALSO_RIGHT)]
    inside = standings(voices={7: voice}).of(one, corrected())
    assert (inside.grade, inside.waits) == (Grade.CORROBORATED, None)
    assert standings(voices={8: voice}).of(one, corrected()).grade is Grade.REPRODUCED
    assert standings(voices={7: voice}, count=6).of(one, corrected()).grade is Grade.REPRODUCED


def test_trust_is_shown_beside_the_grade() -> None:
    found = standings().of(report(principal="vouched"), corrected())
    assert (found.grade, found.trusted, bool(found.gate)) == (Grade.CLAIMED, True, True)
