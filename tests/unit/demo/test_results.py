"""The demo's results: what counts as fixed, and what is shown first."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

from rich.console import Console

from connectors.chat import Reply
from connectors.messages import ChatMessage, Checks
from daemon.demo.results import results_of, results_table, seconds_to_live, sides_of, verdict_sentence
from daemon.demo.scenario import ScenarioQuestion
from daemon.operations.views import GenerationView
from daemon.records import Adapter, AdapterState, ReportState, utcnow

NOW = utcnow()
FOUND = {"a": ReportState.RESOLVED, "b": ReportState.NOT_REPRODUCED, "c": ReportState.RESOLVED, "d": None}
COUNTS = {"fixed": 1, "before": 0, "not_reproduced": 0}


def _generation(*, live: bool = True) -> GenerationView:
    """`c` and `d` were held out."""
    adapter = Adapter(
        generation=1,
        name="aligned-g000001",
        state=AdapterState.LIVE if live else AdapterState.REJECTED,
        run_id=1,
        created_at=NOW,
        updated_at=NOW,
        promoted_at=NOW + timedelta(seconds=300) if live else None,
    )
    retests: list[dict[str, Any]] = [
        {
            "run_id": 1, "report_id": name, "before_passed": 0, "before_answers": 4, "after_passed": 4,
            "after_answers": 4, "outcome": outcome, "counts": "0 of 4 good before, 4 of 4 after",
        }
        for name, outcome in FOUND.items()
    ]  # fmt: skip
    figures = {"held_out": {**COUNTS, "items": 2}, "trained": {**COUNTS, "items": 2, "not_reproduced": 1, "before": 1}}
    verdict = {"accepted": live, "reasons": [], "figures": figures, "decided_at": NOW}
    return GenerationView.model_validate(
        {
            "adapter": adapter, "run": None, "verdict": verdict, "trained_on": ["a", "b"], "erased": [],
            "held_out": ["c", "d"], "left_out": [], "measured": [], "retests": retests, "analyses_by": {},
        }
    )  # fmt: skip


def _questions() -> list[ScenarioQuestion]:
    message = ChatMessage(role="user", content="Why?")
    return [
        ScenarioQuestion(id=name, category="x", messages=[message], reason="bad", checks=Checks()) for name in FOUND
    ]


def _replies(text: str) -> dict[str, Reply]:
    return {
        name: Reply(
            text=f"{text} {name}", model="aligned-g000001", generation=1, finish_reason="stop", completion_tokens=2
        )
        for name in FOUND
    }


def test_held_out_questions_come_first_and_the_run_says_what_is_fixed() -> None:
    results = results_of(_questions(), _replies("old"), _replies("new"), _generation())
    assert [(one.id, one.held_out, one.fixed) for one in results] == [
        ("c", True, True), ("d", True, False), ("a", False, True), ("b", False, False),
    ]  # fmt: skip
    assert (results[0].before, results[0].after) == ("old c", "new c")


def test_a_rejected_candidate_has_fixed_nothing() -> None:
    generation = _generation(live=False)
    assert not any(one.fixed for one in results_of(_questions(), _replies("old"), _replies("new"), generation))
    assert sides_of(generation)["held_out"] == {"items": 2, "fixed": 0, "before": 0}
    assert seconds_to_live(NOW, generation) is None


def test_the_summary_counts_both_sides_by_the_figures_of_the_gate() -> None:
    assert sides_of(_generation()) == {
        "held_out": {"items": 2, "fixed": 1, "before": 0},
        "trained": {"items": 2, "fixed": 1, "before": 1},
        "not_reproduced": 1,
    }
    assert seconds_to_live(NOW, _generation()) == 300.0


def test_the_table_shows_every_text_whole() -> None:
    screen = Console(file=io.StringIO(), width=200)
    long = "word [bold] " * 12
    results = results_of(_questions(), _replies(long), _replies("new"), _generation())
    screen.print(results_table(results))
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert shown.count("[bold]") == 12 * len(FOUND)
    assert shown.index("not trained on") < shown.index("new c") < shown.index("new a")
    assert "1 of 2 fixed" in shown
    assert "0 of 4 good before, 4 of 4 after" in " ".join(shown.split())


def _summary(**changes: Any) -> dict[str, Any]:
    return {
        "gate": {"accepted": True, "reasons": []},
        "live_adapter": "aligned-g000001",
        "held_out": {"items": 16, "fixed": 14},
        "trained": {"items": 14, "fixed": 13},
        "requests": {"served": 99, "failed": 1},
        **changes,
    }


def test_the_verdict_is_one_sentence_with_the_held_out_mistakes_first() -> None:
    assert verdict_sentence(_summary()) == (
        "aligned-g000001 is live and fixes 14 of 16 mistakes that were not trained on and 13 of 14 mistakes that were "
        "trained on; while it took over, 1 of 100 requests failed."
    )


def test_the_verdict_on_a_rejected_candidate_says_why_and_which_generation_answers() -> None:
    gate = {"accepted": False, "reasons": ["memorised, not shown to generalise"]}
    assert verdict_sentence(_summary(gate=gate, live_adapter="aligned-g000000")) == (
        "No adapter went live, because memorised, not shown to generalise; aligned-g000000 answers."
    )
