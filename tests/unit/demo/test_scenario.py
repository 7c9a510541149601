"""The scenario that the demo plays."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from daemon.config import load_config
from daemon.config.dataset import SAME_KIND
from daemon.dataset.split import next_split
from daemon.demo.process import CONFIG, SPLIT_KEY
from daemon.demo.scenario import SCENARIO, load_scenario
from daemon.errors import ConfigError
from daemon.records import Split
from daemon.text.rules import failures
from daemon.text.similarity import Words, cosines
from tests.fixtures.config import flagged


def test_every_correction_of_the_shipped_scenario_meets_its_rule() -> None:
    questions = load_scenario(SCENARIO)
    assert len({question.id for question in questions}) == len(questions) >= 30
    for question in questions:
        assert question.correction is not None
        assert failures(question.checks, question.correction) == [], question.id
        flagged(id=question.id, category=question.category, messages=question.wire)


def test_at_least_twelve_questions_of_each_kind_are_held_out_and_unlike_the_others() -> None:
    """Where live fails all of them: a question that it answers well is not flagged."""
    fraction = load_config(CONFIG, ["model.path=model"]).dataset.holdout_fraction
    questions = sorted(load_scenario(SCENARIO), key=lambda question: question.id)
    for kind in {question.category for question in questions}:
        texts = [question.messages[-1].text for question in questions if question.category == kind]
        rows = Words().vectors(texts)
        alike = cosines(rows, rows)
        np.fill_diagonal(alike, 0.0)
        assert alike.max() < SAME_KIND["words"], kind
        splits: list[Split] = []
        for text in texts:
            splits.append(next_split(Counter(splits), fraction, key=SPLIT_KEY.encode(), leader_text=text))
        assert splits.count(Split.HOLDOUT) >= 12, kind


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{}", "id"),
        ("not json", "JSON"),
        (json.dumps({"id": "a", "category": "c", "messages": [], "reason": "r", "checks": {"regx": "x"}}), "regx"),
    ],
)
def test_a_bad_scenario_names_line_and_field(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "scenario.jsonl"
    path.write_text(f"{SCENARIO.read_text().splitlines()[0]}\n{line}\n")
    with pytest.raises(ConfigError, match=f":2: .*{said}"):
        load_scenario(path)


def test_a_line_separator_inside_a_string_ends_no_line_of_a_scenario(tmp_path: Path) -> None:
    path = tmp_path / "scenario.jsonl"
    line = json.loads(SCENARIO.read_text(encoding="utf-8").partition("\n")[0]) | {"reason": "One.\u2028Two."}
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [question.reason for question in load_scenario(path)] == ["One.\u2028Two."]


def test_a_scenario_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.jsonl"
    path.write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(ConfigError, match="is no JSONL file: byte 4 is not UTF-8"):
        load_scenario(path)


def test_an_empty_scenario_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.jsonl"
    path.touch()
    with pytest.raises(ConfigError, match="no questions"):
        load_scenario(path)
