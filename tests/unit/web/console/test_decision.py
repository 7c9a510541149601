"""The page for a promotion: the order of its evidence, and the decision."""

from __future__ import annotations

import pytest

from daemon.labels import Criterion, Suite
from daemon.operations.shown import AnswerView, MeasuredView
from daemon.operations.views import generation_view
from daemon.store import Store
from daemon.web.console.decision import differences, evidence_of
from tests.fixtures.stores import run_to_verdict


def answer(text: str, passed: bool | None) -> AnswerView:
    return AnswerView(arm="a", text=text, passed=passed, margin=None, bits_per_token=None)


def item(item_id: str, suite: Suite, before: tuple[str, bool | None], after: tuple[str, bool | None]) -> MeasuredView:
    return MeasuredView(
        run_id=1,
        generation=1,
        suite=suite,
        item_id=item_id,
        guided=True,
        before=answer(*before),
        after=answer(*after),
        samples=[],
    )


def test_newly_wrong_answers_come_first_and_then_what_was_not_trained_on() -> None:
    measured = [
        item("same", Suite.HOLDOUT, ("x", True), ("x", True)),
        item("trained", Suite.FLAGGED, ("x", False), ("y", True)),
        item("unseen", Suite.HOLDOUT, ("x", False), ("y", True)),
        item("broken", Suite.GOLDEN, ("x", True), ("y", False)),
    ]
    assert [one.item_id for one in differences(measured)] == ["broken", "unseen", "trained"]


def test_every_finding_of_the_gate_is_in_one_part_of_the_evidence(sqlite_store: Store) -> None:
    criteria = {one.value: {"holds": True, "sentence": f"about {one}"} for one in [*Criterion]}
    criteria["of-a-later-version"] = {"holds": False, "sentence": "new"}
    run = run_to_verdict(sqlite_store, figures={"criteria": criteria, "live_generation": 0})
    parts = evidence_of(generation_view(sqlite_store, run.generation))
    assert [part.name for part in parts[:5]] == ["held-out", "trained", "controls", "drift", "attacks"]
    shown = [name for part in parts for name in part.findings]
    assert sorted(shown) == sorted(criteria)
    assert list(parts[0].findings) == ["generalisation", "holdout"]


@pytest.mark.parametrize("generation", [0, 1])
def test_without_a_verdict_every_part_is_empty(sqlite_store: Store, generation: int) -> None:
    run_to_verdict(sqlite_store, figures={})
    parts = evidence_of(generation_view(sqlite_store, generation))
    assert all(not part.findings and not part.scores for part in parts)
