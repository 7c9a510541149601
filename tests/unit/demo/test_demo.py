"""The demo's own parts: what it refuses, what it reads, what it counts."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from connectors.vllm import VllmServer
from daemon.config.evaluation import GatePolicy
from daemon.demo import _empty
from daemon.demo.play import Patience, probe_counts
from daemon.demo.scenario import SCENARIO, load_scenario
from daemon.demo.traffic import Exchange, Traffic
from daemon.errors import ConfigError
from daemon.evaluation.comparison import ArmScores
from daemon.evaluation.gate import decide
from daemon.records import Answer
from daemon.text.rules import failures
from tests.fakes.vllm import ADMIN_TOKEN, FakeVllm
from tests.fixtures.config import flagged

TALK = [[{"role": "user", "content": "hello"}]]


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


def test_traffic_counts_what_was_answered_and_by_which_generation(fake_vllm: FakeVllm) -> None:
    asked = _traffic(fake_vllm, live=True)
    assert len(asked) >= 4
    assert {exchange.streamed for exchange in asked} == {True, False}
    assert {exchange.models for exchange in asked} == {("aligned-g000000",)}
    assert not any(exchange.failed for exchange in asked)


def test_traffic_counts_every_refusal_as_failed(fake_vllm: FakeVllm) -> None:
    asked = _traffic(fake_vllm, live=False)
    assert asked
    assert all(exchange.failed and "503" in str(exchange.error) for exchange in asked)


def _traffic(fake: FakeVllm, *, live: bool) -> list[Exchange]:
    if live:
        _set_live(fake)
    traffic = Traffic(fake.url, "aligned", TALK * 2, streams=2, max_tokens=4)
    traffic.start()
    threading.Event().wait(0.5)
    return traffic.stop()


def _set_live(fake: FakeVllm) -> None:
    server = VllmServer(fake.url, api_key=None, admin_token=ADMIN_TOKEN)
    server.set_live("aligned-g000000", expected=None)
    server.close()


def test_patience_ends_when_nothing_changes_and_not_because_much_time_has_passed() -> None:
    clock = iter(float(second) for second in range(0, 10_000, 600))
    patience = Patience(now=lambda: next(clock))
    assert all(patience.lasts(f"step {number}") for number in range(5))
    assert not patience.lasts("step 4")
