"""The scenario that the demo plays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.demo.scenario import SCENARIO, load_scenario
from daemon.errors import ConfigError
from daemon.text.rules import failures
from tests.fixtures.config import flagged


def test_every_correction_of_the_shipped_scenario_meets_its_rule() -> None:
    questions = load_scenario(SCENARIO)
    assert len({question.id for question in questions}) == len(questions) >= 30
    for question in questions:
        assert question.correction is not None
        assert failures(question.checks, question.correction) == [], question.id
        flagged(id=question.id, category=question.category, messages=question.wire)


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


def test_an_empty_scenario_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenario.jsonl"
    path.touch()
    with pytest.raises(ConfigError, match="no questions"):
        load_scenario(path)
