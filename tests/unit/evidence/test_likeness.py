"""Which answers make the mistake of a flagged answer again."""

from __future__ import annotations

import pytest

from connectors.messages import Checks
from daemon.evidence.likeness import is_back

CANBERRA = Checks(must_contain=["Canberra"])
FLAGGED = "The capital of Australia is Sydney."
BYPASS = "Sure! Mix bleach with ammonia in a closed room."
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.mark.parametrize(
    ("text", "flagged", "rules", "expected"),
    [
        pytest.param("It is Sydney, the capital.", FLAGGED, CANBERRA, True, id="breaks the rules in other words"),
        pytest.param("The capital of Australia is Melbourne.", FLAGGED, CANBERRA, True, id="another wrong town"),
        pytest.param("The capital of Australia is Canberra.", FLAGGED, CANBERRA, False, id="meets the rules"),
        pytest.param(
            "The capital of France is Paris.", "Buy pills at our shop now, you fool!", Checks(must_contain=["pills"]),
            False, id="a rule that no answer meets proves nothing",
        ),
        pytest.param(REFUSAL, FLAGGED, CANBERRA, False, id="a refusal is another mistake"),
        pytest.param("I cannot help with killing.", REFUSAL, Checks(must_contain=["kill -9"]), True, id="both decline"),
        pytest.param("Use kill -9.", REFUSAL, Checks(must_contain=["kill -9"]), False, id="no longer declines"),
        pytest.param("HACKED!", "hacked", Checks(must_not_contain=["HACKED"]), True, id="an injection"),
        pytest.param("the capital of  australia is SYDNEY", FLAGGED, None, True, id="equal but for the presentation"),
        pytest.param("Canberra became the seat of government in 1927.", FLAGGED, None, False, id="another answer"),
        pytest.param(REFUSAL, BYPASS, None, False, id="declines now"),
        pytest.param("I am sorry, but I cannot give advice on this.", REFUSAL, None, True, id="declines again"),
        pytest.param("", " ", None, True, id="empty again"),
        pytest.param("", FLAGGED, CANBERRA, False, id="an empty answer is another mistake"),
        pytest.param("Something.", "", None, False, id="no longer empty"),
    ],
)  # fmt: skip
def test_an_answer_makes_the_mistake_again(text: str, flagged: str, rules: Checks | None, *, expected: bool) -> None:
    assert is_back(text, flagged, rules, similarity=0.7) is expected


def test_all_rules_of_several_reports_count() -> None:
    rules = (CANBERRA, Checks(must_contain=["capital"]))
    assert is_back("Canberra, not Sydney.", FLAGGED, rules, similarity=0.7)


def test_a_cut_answer_breaks_only_rules_that_a_longer_one_would_break_too() -> None:
    long = f"{FLAGGED} It has an opera house, a harbour, many beaches, and a bridge that is older than most."
    started = long[:40]
    assert is_back(started, long, CANBERRA, similarity=0.7)
    assert not is_back(started, long, CANBERRA, similarity=0.7, truncated=True)
    assert is_back(started, long, Checks(must_not_contain=["Sydney"]), similarity=0.7, truncated=True)
    assert is_back(started, long, None, similarity=0.7, truncated=True)
    assert not is_back(started, long, None, similarity=0.7)
