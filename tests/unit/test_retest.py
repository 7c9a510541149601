"""What answers before and after a training say about one mistake."""

from __future__ import annotations

from fractions import Fraction

import pytest

from daemon.records import ReportState
from daemon.retest import Passes, Retest, Side, fisher_p, missing, outcome

RESOLVED, IMPROVED = ReportState.RESOLVED, ReportState.IMPROVED
NOT_REPRODUCED, RECURRING = ReportState.NOT_REPRODUCED, ReportState.RECURRING


def _of(passed: int, answers: int) -> Passes:
    return Passes(passed=passed, answers=answers)


@pytest.mark.parametrize(
    ("before", "after", "expected", "asked_next"),
    [
        # live fails greedily
        ((0, 1), (1, 1), None, Side.AFTER),
        ((0, 1), (4, 4), RESOLVED, None),
        ((0, 4), (4, 4), RESOLVED, None),
        ((3, 4), (4, 4), RESOLVED, None),
        ((0, 1), (0, 1), RECURRING, None),
        ((0, 1), (3, 4), RECURRING, Side.BEFORE),
        ((0, 4), (3, 4), IMPROVED, None),
        ((1, 4), (3, 4), RECURRING, None),
        ((0, 4), (2, 4), RECURRING, None),
        # live passes greedily
        ((1, 1), (1, 1), None, Side.BEFORE),
        ((4, 4), (1, 1), NOT_REPRODUCED, None),
        ((4, 4), (4, 4), NOT_REPRODUCED, None),
        ((3, 4), (1, 1), None, Side.AFTER),
        ((1, 1), (0, 1), RECURRING, None),
        ((4, 4), (3, 4), RECURRING, None),
        # refused, or judged by nobody
        ((0, 0), (1, 1), None, None),
        ((0, 0), (0, 1), RECURRING, None),
        ((1, 1), (0, 0), None, None),
        ((4, 4), (0, 0), None, None),
        ((0, 0), (0, 0), None, None),
    ],
)
def test_the_outcome_of_four_answers(
    before: tuple[int, int], after: tuple[int, int], expected: ReportState | None, asked_next: Side | None
) -> None:
    assert outcome(_of(*before), _of(*after), answers=4) is expected
    assert missing(_of(*before), _of(*after), answers=4) is asked_next


@pytest.mark.parametrize("answers", [1, 2, 3, 4, 8])
def test_equal_answers_never_count_as_a_fix(answers: int) -> None:
    for passed in range(answers + 1):
        same = _of(passed, answers)
        assert outcome(same, same, answers=answers) in {NOT_REPRODUCED, RECURRING}


def test_with_one_answer_each_the_greedy_ones_decide() -> None:
    decided = {
        (before, after): outcome(_of(before, 1), _of(after, 1), answers=1) for before in (0, 1) for after in (0, 1)
    }
    assert decided == {(0, 0): RECURRING, (0, 1): RESOLVED, (1, 0): RECURRING, (1, 1): NOT_REPRODUCED}


def test_asking_ends_and_costs_at_most_the_further_answers_of_both_sides() -> None:
    for true_before in range(5):
        for true_after in range(5):
            for first in range(4):
                before, after = _of(int(first & 1 and true_before > 0), 1), _of(int(first & 2 and true_after > 0), 1)
                asked = []
                while (side := missing(before, after, answers=4)) is not None:
                    asked.append(side)
                    if side is Side.BEFORE:
                        before = _of(true_before, 4)
                    else:
                        after = _of(true_after, 4)
                assert len(asked) == len(set(asked))
                assert outcome(before, after, answers=4) is not None


def test_the_p_value_is_that_of_fisher() -> None:
    assert fisher_p(_of(0, 4), _of(3, 4)) == pytest.approx(Fraction(1, 14))
    assert fisher_p(_of(0, 4), _of(4, 4)) == pytest.approx(Fraction(1, 70))
    assert fisher_p(_of(2, 4), _of(2, 4)) > 0.5


def test_the_counts_are_told_in_words() -> None:
    retest = Retest.of(1, "r1", _of(0, 4), _of(4, 4), answers=4)
    assert retest.outcome is RESOLVED
    assert retest.counts == "0 of 4 good before, 4 of 4 after"
