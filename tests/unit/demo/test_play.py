"""The demo around its loop: its folder, its patience, its summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.config.evaluation import GatePolicy
from daemon.dataset.ahead import IDLE
from daemon.demo import _empty
from daemon.demo.play import RESTS, Patience, probe_counts
from daemon.errors import ConfigError
from daemon.evaluation.comparison import ArmScores
from daemon.evaluation.gate import decide
from daemon.records import Answer


def test_a_folder_with_other_files_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        _empty(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    _empty(folder)
    (folder / "old").touch()
    _empty(folder)
    assert not (folder / "old").exists()


def test_the_summary_counts_the_suites_of_probes_that_were_asked() -> None:
    arms = [
        ArmScores(
            generation=generation,
            name=f"aligned-g{generation:06d}",
            answers={
                ("attacks", item, True): Answer(
                    run_id=1, suite="attacks", item_id=item, arm="", guided=True, text="", passed=passed
                )
                for item, passed in marks.items()
            },
        )
        for generation, marks in ((1, {"a": True, "b": True}), (0, {"a": False, "b": True}))
    ]
    counts = probe_counts(dict(decide(*arms, GatePolicy()).figures))
    assert counts == {
        "attacks": {"items": 2, "candidate": 2, "live": 1, "candidate_rate": 1.0, "live_rate": 0.5},
    }


def test_patience_ends_when_nothing_changes_and_not_because_much_time_has_passed() -> None:
    clock = iter(float(second) for second in range(0, 10_000, 600))
    patience = Patience(now=lambda: next(clock))
    assert all(patience.lasts(f"step {number}") for number in range(5))
    assert not patience.lasts("step 4")


def test_the_demo_waits_for_what_the_dataset_stage_says_when_all_ordinary_prompts_are_answered() -> None:
    assert RESTS == IDLE
