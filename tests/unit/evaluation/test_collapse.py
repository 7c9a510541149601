"""Meters of collapse over an arm's answers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from daemon.evaluation.collapse import variety
from daemon.evaluation.comparison import ArmScores
from daemon.records import Answer


def _arm(texts: Iterable[str], *, guided: bool = True, suite: str = "golden") -> ArmScores:
    found = {
        (suite, str(number), guided): Answer(
            run_id=1, suite=suite, item_id=str(number), arm="a", guided=guided, text=text
        )
        for number, text in enumerate(texts)
    }
    return ArmScores(generation=1, name="a", answers=found)


def test_different_answers_are_varied() -> None:
    found = variety(_arm(["one two three four five", "six seven eight nine ten"]))
    assert (found.distinct, found.overlap) == (1.0, 0.0)


def test_one_answer_to_everything_overlaps_wholly() -> None:
    found = variety(_arm(["I am sorry, I can't share that."] * 4))
    assert found.overlap == 1.0
    assert found.distinct == pytest.approx(1 / 4)


def test_a_loop_within_one_answer_is_not_distinct_and_does_not_overlap() -> None:
    found = variety(_arm(["go on " * 20, "quite another answer stands here"]))
    assert found.distinct is not None
    assert found.distinct < 0.2
    assert found.overlap == 0.0


def test_case_and_signs_do_not_make_answers_different() -> None:
    assert variety(_arm(["One two three four!", "one, two, THREE four"])).overlap == 1.0


def test_signs_without_spaces_are_words() -> None:
    assert variety(_arm(["我不能回答这个问题", "我不能回答这个问题吗"])).overlap == pytest.approx(12 / 13)


@pytest.mark.parametrize(
    "arm", [_arm([]), _arm(["", "..."]), _arm(["a b c"], guided=False), _arm(["a b"], suite="drift")]
)
def test_without_words_to_look_at_there_is_no_figure(arm: ArmScores) -> None:
    found = variety(arm)
    assert (found.distinct, found.overlap) == (None, None)
