"""What a held-out report can keep out of training, with its numbers."""

from __future__ import annotations

from daemon.labels import LeftOut
from daemon.records import Lesson, Report
from tests.unit.dataset.test_fairness import chosen, taught

HELD_OUT = -9


def about(topic: str, principal: str, reporter: str, *, held_out: bool, number: int = 0) -> tuple[Report, Lesson]:
    """A lesson whose prompt resembles all others of its topic, but whose answer is its own."""
    prompt = f"please explain {topic} {topic}ness {topic}hood kind{number}"
    return taught(
        principal,
        reporter,
        messages=[{"role": "user", "content": prompt}],
        category="own" if held_out else "wrong-fact",
        **({"cluster": HELD_OUT} if held_out else {}),
    )


def test_three_held_out_reports_of_one_principal_do_not_keep_ten_honest_ones_out_of_training() -> None:
    """They kept 10 of 10 out."""
    for topic in ("loans", "cards"):
        honest = [about(topic, "app", f"user-{number}", held_out=False, number=number) for number in range(10)]
        hostile = [about(topic, "anyone", f"sybil-{number}", held_out=True, number=number) for number in range(3)]
        selection = chosen([*honest, *hostile], held_out=[HELD_OUT])
        assert (len(selection.train), len(selection.holdout)) == (10, 0)
        assert selection.left_out == {LeftOut.TRAINED_ALIKE: 3}


def test_the_held_out_side_gives_way_unless_more_principals_stand_behind_it() -> None:
    train = [about("loans", "app", "ann", held_out=False), about("pans", "app", "bob", held_out=False)]
    once = about("loans", "app", "cid", held_out=True, number=1)
    selection = chosen([*train, once], held_out=[HELD_OUT])
    assert (len(selection.train), selection.left_out) == (2, {LeftOut.TRAINED_ALIKE: 1})
    twice = about("loans", "site", "dan", held_out=True, number=2)
    selection = chosen([*train, once, twice], held_out=[HELD_OUT])
    assert [one.report.id for one in selection.train] == [train[1][0].id]
    assert (len(selection.holdout), selection.left_out) == (2, {LeftOut.HELD_OUT_ALIKE: 1})


def test_trusted_principals_count_first_and_reporters_not_at_all() -> None:
    crowd = [about("loans", "anyone", f"sybil-{number}", held_out=True, number=number) for number in range(15)]
    honest = about("loans", "app", "ann", held_out=False)
    others = [about("loans", name, "x", held_out=True) for name in ("b", "c")]
    assert len(chosen([*crowd, honest], held_out=[HELD_OUT]).train) == 1
    assert len(chosen([*crowd, *others, honest], held_out=[HELD_OUT]).train) == 0
    assert len(chosen([*crowd, *others, honest], held_out=[HELD_OUT], trusted=["app"]).train) == 1


def test_a_crowd_on_the_training_side_does_not_drive_honest_questions_out_of_the_holdout() -> None:
    crowd = [about("loans", "anyone", f"sybil-{number}", held_out=False, number=number) for number in range(15)]
    held_out = [about("loans", name, "ann", held_out=True) for name in ("app", "site")]
    selection = chosen([*crowd, *held_out], held_out=[HELD_OUT])
    assert (len(selection.train), len(selection.holdout)) == (0, 2)
