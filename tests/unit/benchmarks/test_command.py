"""`python -m tests.benchmarks.quality`: refused options, kept answers, published tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.artifacts.jsonl import source_of
from daemon.dataset.recipes import AUTO
from daemon.dataset.recipes import RECIPES as DAEMON_RECIPES
from daemon.errors import TrainingError
from tests.benchmarks import report as benchmark_report
from tests.benchmarks.quality import __main__ as command
from tests.benchmarks.quality import plan as plans
from tests.benchmarks.quality.arguments import DEFAULT_TRAINING, parser, plan_of
from tests.benchmarks.quality.data import PublicData
from tests.benchmarks.quality.plan import ABLATIONS, ANSWERS, RECIPES, WITH_TEACHER, Plan, Sheet
from tests.benchmarks.quality.probes import Scenario, Wants
from tests.fixtures.bench import result


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the published answers; beside it a page for the tables."""
    folder = tmp_path / "published"
    folder.mkdir()
    (tmp_path / "RESULTS.md").write_text("above\n<!-- quality of model -->\nold\n<!-- end of model -->\nbelow\n")
    monkeypatch.setattr(command, "PUBLISHED", folder)
    monkeypatch.setattr(command, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    monkeypatch.setattr(command.log, "configure", lambda _: None)
    monkeypatch.setattr(benchmark_report, "RESULTS", tmp_path)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


def _plan(data: PublicData, out: Path) -> Plan:
    return Plan(
        data=data.folder,
        model=data.folder / "model",
        out=out,
        scenarios=("attack", "unaligned"),
        variants=("sft",),
        seeds=(1,),
        token_budget=16_000,
        training=DEFAULT_TRAINING,
        size=1.0,
    )


def _answers(scenario: Scenario, text: str, bits: float) -> list[dict[str, Any]]:
    """The same answer to every probe, as it is kept."""
    return [
        {"suite": probe.suite, "id": probe.id, "guided": guided, "text": text, "bits": bits if scored else None}
        for probe in scenario.probes
        for scored in [probe.wants is Wants.TEXT]
        for guided in ((False,) if scored else (True, False))
    ]


def _base() -> dict[str, Any]:
    return result("base", None, [False] * 10, [3.0, 3.0]) | {"traps": 4, "mistakes": 2, "recognised": []}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--data", "absent"), "promptinject.json cannot be read"),
        (("--recipe", "magic", "--scenario", "x"), "no scenario 'x'; choose one of attack, unaligned"),
        (("--recipe", "magic", "--scenario", "attack"), "no recipe 'magic'; choose one of "),
        (("--recipe", "external-analysis"), "name its endpoint with --analyst-url"),
        (("--training", "learning_rate"), "--training learning_rate: "),
        (("--training", "rat=3"), "--training rat: "),
        (("--training", "learning_rate=fast"), "--training learning_rate: "),
        (("--kept",), "holds no answers of these scenarios"),
    ],
)
def test_the_command_names_what_it_cannot_use_before_anything_is_trained(
    data: PublicData, model: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    given = ["--data", str(data.folder), "--model", str(model), "--out", str(data.folder / "out"), *options]
    assert command.main(given) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_preference_training_needs_trl(
    data: PublicData, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    given = ["--data", str(data.folder), "--model", str(model), "--out", str(data.folder / "out")]
    assert command.main([*given, "--recipe", "preference"]) == 2
    assert "pip install -e '.[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        *(("--seeds", "0"), ("--seeds", "many"), ("--token-budget", "999"), ("--size", "0.04")),
        *(("--threads", "0"), ("--trainers", "0"), ("--seed", "1")),
    ],
)
def test_a_number_out_of_its_range_and_a_shortened_option_are_refused(
    wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--data", "data", *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_the_plan_is_what_the_options_say(model: Path) -> None:
    def planned(*options: str) -> Plan:
        return plan_of(parser("about").parse_args(["--data", "data", "--model", str(model), *options]))

    plan = planned()
    assert (plan.scenarios, plan.seeds, plan.token_budget, plan.size) == (
        ("attack", "unaligned"),
        (0, 1, 2),
        16000,
        1.0,
    )
    assert plan.variants == tuple(one.name for one in RECIPES)
    assert (plan.training, plan.analyst, plan.out) == (DEFAULT_TRAINING, None, Path("var/bench-quality"))
    ablations = planned("--ablations").variants[len(RECIPES) :]
    assert ablations == tuple(one.name for one in ABLATIONS if not one.analyst.is_external)
    everything = tuple(one.name for one in (*RECIPES, *ABLATIONS))
    assert planned("--ablations", "--kept").variants == everything
    asked = planned("--ablations", "--analyst-url", "http://localhost:9000", "--analyst-model", "big")
    assert asked.variants == everything
    assert asked.analyst is not None
    assert (asked.analyst.url, asked.analyst.model) == ("http://localhost:9000", "big")
    assert planned("--recipe", "sft", "--recipe", "preference").variants == ("sft", "preference")
    assert planned("--recipe", "base").variants == ()
    assert planned("--recipe", "consistency").variants == ("consistency",)
    assert {one.recipe for one in WITH_TEACHER} <= {AUTO, *DAEMON_RECIPES}
    assert planned("--training", "rank=8").training == {**DEFAULT_TRAINING, "rank": 8}


def test_what_was_measured_so_far_is_shown(data: PublicData, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.folder / "out"
    sheet = Sheet(_plan(data, out))
    (out / ANSWERS).mkdir(parents=True)
    about = {"scenario": "attack", "variant": "base", "seed": None, "traps": 4, "mistakes": 2, "recognised": []}
    base = {**about, "answers": _answers(sheet.scenarios[0], "PINEAPPLE PARADE", 3.0)}
    sheet.base_result(sheet.scenarios[0]).write_text(json.dumps(base))
    for cell, bits in zip(sheet.cells, (3.5, 9.0), strict=True):  # the second one's base was not asked
        trained = {"scenario": cell.scenario.name, "variant": "sft", "seed": 1}
        sheet.result(cell).write_text(json.dumps({**trained, "answers": _answers(cell.scenario, "Well.", bits)}))
    given = ["--data", str(data.folder), "--model", str(model), "--out", str(out), "--kept"]
    given += ["--seeds", "2", "--scenario", "attack", "--scenario", "unaligned"]
    assert command.main(given) == 0
    shown = capsys.readouterr().out
    assert "3.500 (+0.500" in shown
    hijacked = [probe.order for probe in sheet.scenarios[0].probes if probe.suite == "hijack"].count("PINEAPPLE PARADE")
    assert f"| base | 1 | {100 * hijacked / 60:.0f} |" in shown
    assert "| sft | 1 | 0 (-" in shown
    assert "9.000" not in shown
    assert "chain-of-hindsight" not in shown
    assert command.main([*given, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["markdown"] == shown.removesuffix("\n")
    assert {score["variant"] for score in document["scores"]} == {"base", "sft"}


def test_the_answers_behind_the_table_are_published_and_not_asked_for_again(
    tmp_path: Path, model: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (published / "measured-before.json").write_text("{}")

    def measure(plan: Plan, _say: object) -> list[dict[str, Any]]:
        assert (plan.out, plan.seeds) == (out, (0,))
        assert (out / "results" / "measured-before.json").exists()
        (out / "results" / "new.json").write_text("{}")
        return [_base()]

    monkeypatch.setattr(command, "measure", measure)
    given = ["--data", "data", "--model", str(model), "--out", str(out), "--seeds", "1"]
    assert command.main(given) == 0
    assert {path.name for path in published.iterdir()} == {"measured-before.json", "new.json"}
    kept = json.loads((tmp_path / "quality-model.json").read_text())
    assert kept["command"] == f"python -m tests.benchmarks.quality {' '.join(given)}"
    assert {score["variant"] for score in kept["scores"]} == {"base"}
    page = (tmp_path / "RESULTS.md").read_text()
    assert page.startswith("above\n<!-- quality of model -->\n")
    assert page.endswith(f"`{kept['command']}`\n\n{kept['markdown']}\n<!-- end of model -->\nbelow\n")
    abler = model.rename(tmp_path / "abler")
    assert command.main([*given, "--model", str(abler)]) == 0
    assert (tmp_path / "RESULTS.md").read_text().startswith(f"{page}\n## abler\n\n<!-- quality of abler -->\n")


def test_answers_of_a_measurement_that_failed_are_published(
    tmp_path: Path, model: Path, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(plan: Plan, _say: object) -> list[dict[str, Any]]:
        (plan.out / "results" / "new.json").write_text("{}")
        raise TrainingError("attack/sft/0 was not trained")

    monkeypatch.setattr(command, "measure", measure)
    assert command.main(["--data", "data", "--model", str(model), "--out", str(tmp_path / "out")]) == 1
    assert "attack/sft/0 was not trained" in capsys.readouterr().err
    assert (published / "new.json").exists()
    assert "\nold\n" in (tmp_path / "RESULTS.md").read_text()


def test_the_module_is_the_command() -> None:
    asked = [sys.executable, "-m", "tests.benchmarks.quality", "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "usage: python -m tests.benchmarks.quality" in shown


def test_other_pairs_beside_the_lessons_make_other_cells(
    data: PublicData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells() -> list[str]:
        return [cell.settings for cell in Sheet(_plan(data, tmp_path)).cells]

    before = cells()
    assert cells() == before
    edited = tmp_path / "golden_pairs.jsonl"
    edited.write_text('{"prompt": "Say yes.", "answer": "Yes."}\n')
    monkeypatch.setattr(plans, "source_of", lambda path, name: edited if name == edited.name else source_of(path, name))
    assert not set(cells()) & set(before)
