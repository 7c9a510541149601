"""`erratad bench quality`: what it refuses, what it keeps, and what it takes for measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.bench import quality
from daemon.bench.data import PublicData
from daemon.bench.quality import RESULTS, Plan, Sheet
from daemon.cli import app
from daemon.cli.bench import DEFAULT_TRAINING
from daemon.runtime.jsonl import source_of
from tests.fixtures.bench import result


def _plan(data: PublicData, out: Path) -> Plan:
    return Plan(
        data=data.folder,
        model=data.folder / "model",
        out=out,
        scenarios=("attack", "unaligned"),
        variants=("sft",),
        seeds=(1,),
        token_budget=48_000,
        training=DEFAULT_TRAINING,
        size=0.6,
    )


def test_the_command_names_what_it_cannot_find(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    answer = CliRunner().invoke(app, ["bench", "quality", "--data", str(tmp_path / "absent"), "--model", str(model)])
    assert answer.exit_code == 2
    assert "promptinject.json cannot be read" in answer.output
    answer = CliRunner().invoke(
        app,
        ["bench", "quality", "--data", str(tmp_path), "--model", str(model), "--recipe", "magic", "--scenario", "x"],
    )
    assert answer.exit_code == 2
    assert "no scenario 'x'; choose one of attack, unaligned" in answer.output


def test_another_model_is_asked_for_before_anything_is_trained(data: PublicData, tmp_path: Path) -> None:
    model = data.folder / "model"
    model.mkdir()
    command = ["bench", "quality", "--data", str(data.folder), "--model", str(model), "--out", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, [*command, "--recipe", "external-analysis"])
    assert answer.exit_code == 2
    assert "name its endpoint with --analyst-url" in answer.output


def test_preference_training_needs_trl(data: PublicData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    model = data.folder / "model"
    model.mkdir()
    command = ["bench", "quality", "--data", str(data.folder), "--model", str(model), "--out", str(data.folder / "out")]
    answer = CliRunner().invoke(app, [*command, "--recipe", "preference"])
    assert answer.exit_code == 2
    assert "pip install 'erratad[bench]'" in answer.output


@pytest.mark.parametrize("wrong", ["learning_rate", "rat=3", "learning_rate=fast"])
def test_a_wrong_training_setting_is_named(data: PublicData, wrong: str) -> None:
    model = data.folder / "model"
    model.mkdir()
    command = ["bench", "quality", "--data", str(data.folder), "--model", str(model), "--training", wrong]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert wrong.partition("=")[0] in answer.output


def test_what_was_measured_so_far_is_shown(data: PublicData) -> None:
    model, out = data.folder / "model", data.folder / "out"
    model.mkdir()
    command = ["bench", "quality", "--data", str(data.folder), "--model", str(model), "--out", str(out), "--kept"]
    command += ["--seeds", "2", "--scenario", "attack", "--scenario", "unaligned"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 2
    assert "holds no answers of these scenarios" in answer.output
    sheet = Sheet(_plan(data, out))
    (out / RESULTS).mkdir(parents=True)
    base = result("base", None, [False] * 10, [3.0, 3.0]) | {"traps": 4, "mistakes": 2, "recognised": []}
    sheet.base_result(sheet.scenarios[0]).write_text(json.dumps(base))
    for cell, bits in zip(sheet.cells, ([3.5, 3.5], [9.0, 9.0]), strict=True):  # the second one's base was not asked
        sheet.result(cell).write_text(json.dumps(result("sft", 1, [True] * 10, bits)))
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    assert "3.500 (+0.500" in answer.output
    assert "9.000" not in answer.output
    assert "chain-of-hindsight" not in answer.output


def test_other_pairs_beside_the_lessons_make_other_cells(
    data: PublicData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells() -> list[str]:
        return [cell.settings for cell in Sheet(_plan(data, tmp_path)).cells]

    before = cells()
    assert cells() == before
    edited = tmp_path / "golden_pairs.jsonl"
    edited.write_text('{"prompt": "Say yes.", "answer": "Yes."}\n')
    monkeypatch.setattr(
        quality, "source_of", lambda path, name: edited if name == edited.name else source_of(path, name)
    )
    assert not set(cells()) & set(before)
