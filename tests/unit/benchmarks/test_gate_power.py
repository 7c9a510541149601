"""The tables on the gate's errors are right, follow the gate's own criteria, and are those of the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from daemon.evaluation import gate
from daemon.evaluation.comparison import ArmScores, Comparison
from daemon.evaluation.under_attack import tasks_under_attack
from daemon.evaluation.votes import Voter, Votes
from daemon.labels import Suite
from daemon.records import Answer
from tests.benchmarks import gate_power
from tests.benchmarks.gate_power import POLICY

PAGE = Path(__file__).parents[3] / "docs" / "measurements" / "gate-power.md"


@pytest.mark.parametrize("title", gate_power.tables())
def test_the_page_has_the_tables_that_the_script_prints(title: str) -> None:
    assert f"**{title}**\n\n{gate_power.tables()[title]}\n" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("lost", "gained", "items", "percent"),
    [(2, 2, 24, 6), (5, 5, 24, 16), (10, 0, 24, 71), (20, 5, 24, 82), (5, 5, 60, 7), (20, 5, 60, 93), (10, 0, 200, 99)],
)
def test_the_stated_shares_of_rejections_are_those_of_the_bound(
    lost: int, gained: int, items: int, percent: int
) -> None:
    chances = multinomial(items, [lost / 100, gained / 100, 1 - (lost + gained) / 100])
    rejected = sum(
        chances.pmf([down, up, items - down - up])
        for down in range(items + 1)
        for up in range(items - down + 1)
        if down - up > POLICY.max_attack_loss * items + 1e-9
    )
    assert 100 * rejected == pytest.approx(percent, abs=0.5)
    computed = gate_power.share(gate_power.is_worse, items, gained=gained / 100, lost=lost / 100)
    assert computed == pytest.approx(rejected, abs=1e-8)


def compared(suite: Suite, items: int, gained: int, lost: int) -> Comparison:
    """Arms that differ in `gained + lost` items; live passes the lost ones, and half of the unchanged ones."""

    def arm(name: str, passed: list[bool]) -> ArmScores:
        answers = [
            Answer(run_id=1, suite=suite, item_id=str(number), arm=name, guided=True, text="", passed=value)
            for number, value in enumerate(passed)
        ]
        keyed = {(answer.suite, answer.item_id, answer.guided): answer for answer in answers}
        return ArmScores(generation=0, name=name, answers=keyed)

    same = [number % 2 == 0 for number in range(items - gained - lost)]
    live = [False] * gained + [True] * lost + same
    candidate = [True] * gained + [False] * lost + same
    return Comparison(arm("candidate", candidate), arm("live", live))


@given(st.data(), st.integers(min_value=1, max_value=200))
def test_the_script_judges_as_the_gate_does(data: st.DataObject, items: int) -> None:
    gained = data.draw(st.integers(min_value=0, max_value=items))
    lost = data.draw(st.integers(min_value=0, max_value=items - gained))
    fixes = compared(Suite.FLAGGED, items, gained, lost)
    accepted = gate._fix_gain(fixes, POLICY).holds and gate._significance(fixes, POLICY).holds
    assert gate_power.is_better(items, gained, lost) is accepted
    tasks = compared(Suite.GOLDEN, items, gained, lost)
    assert gate_power.breaks_too_much(items, gained, lost) is not gate._negative_flips(tasks, POLICY).holds
    worse = gate_power.is_worse(items, gained, lost)
    assert worse is not gate._attacks(compared(Suite.ATTACKS, items, gained, lost), POLICY).holds
    attacked = compared(Suite.UNDER_ATTACK, items, gained, lost)
    assert gate_power.does_less(items, gained, lost) is not tasks_under_attack(attacked, POLICY, {}).holds
    assert worse is not gate._over_refusal(compared(Suite.OVER_REFUSAL, items, gained, lost), POLICY).holds


@given(
    st.lists(
        st.integers(min_value=0, max_value=6).flatmap(
            lambda gained: st.tuples(st.just(gained), st.integers(min_value=0, max_value=6 - gained))
        ),
        min_size=2,
        max_size=9,
    )
)
def test_the_script_shares_gains_as_the_gate_does(counts: list[tuple[int, int]]) -> None:
    gained, lost = (sum(found) for found in zip(*counts, strict=True))
    items = 6 * len(counts)
    fixes = compared(Suite.FLAGGED, items, gained, lost)
    owners = [
        *(number for number, (up, _) in enumerate(counts) for _ in range(up)),
        *(number for number, (_, down) in enumerate(counts) for _ in range(down)),
        *(number for number, (up, down) in enumerate(counts) for _ in range(6 - up - down)),
    ]
    voters = {
        ("flagged", str(item)): Voter(principal=f"p{owner}", reporter=f"r{item}", cluster=str(item))
        for item, owner in enumerate(owners)
    }
    voted = replace(
        fixes, votes=Votes(voters=voters, max_share=POLICY.max_principal_share, min_others=POLICY.min_items)
    )
    # a single reporter has one vote here, so leaving out a whole principal never leaves more
    principals = gate_power.is_shared(counts, items)
    best = 1 if gained else 0
    reporter = (gained - lost - best) / items >= POLICY.min_shared_gain - gate_power.ROUNDING
    assert (principals and reporter) is gate._shared_gain(voted, POLICY).holds


@given(st.data(), st.integers(min_value=3, max_value=40))
def test_the_script_lets_one_reporter_veto_as_the_gate_does(data: st.DataObject, items: int) -> None:
    gained = data.draw(st.integers(min_value=0, max_value=items))
    lost = data.draw(st.integers(min_value=0, max_value=items - gained))
    held_out = compared(Suite.HOLDOUT, items, gained, lost)
    voters = {
        ("holdout", str(item)): Voter(principal="p", reporter=f"r{item}", cluster=str(item)) for item in range(items)
    }
    assert gate_power.vetoes_alone(items, gained, lost) is not gate._holdout(held_out, POLICY).holds
    voted = replace(held_out, votes=Votes(voters=voters))
    assert gate_power.vetoes(items, gained, lost) is not gate._holdout(voted, POLICY).holds
