"""`erratad init`: a first configuration for a model, and what the model's files show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from daemon.cli import app
from daemon.config import load_config
from daemon.errors import ConfigError
from daemon.operations import new_config
from daemon.training.examination import Findings
from tests.fixtures.families import hollow_model

LLAMA = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (8, 8)}


def model(folder: Path, **changes: Any) -> Path:
    return hollow_model(folder / "model", config={**LLAMA, **changes}, shapes=SHAPES)


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


@pytest.fixture(autouse=True)
def examined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at the model takes seconds: `test_wheel.py` has it."""
    monkeypatch.setattr(new_config, "check", lambda _config: Findings(notes=("chat.template: fine",)))


def test_the_file_is_commented_valid_and_of_this_model(tmp_path: Path) -> None:
    folder, out = model(tmp_path, num_key_value_heads=8, max_position_embeddings=32768), tmp_path / "erratad.yaml"
    done = init("--model", folder, "--out", out)
    assert done.exit_code == 0, done.stderr
    config = load_config(out)
    assert config.model.path == folder
    assert config.serving.max_model_len == 8192
    assert out.read_text().count("#") > 15
    assert "of 128 KiB per token" in done.stderr
    assert "up to 32768 tokens" in done.stderr
    assert "chat.template: fine" in done.stderr


@pytest.mark.parametrize("name", ["a b", "quote\"'s", "#hash", "Zürich", "{braces}"])
def test_any_name_of_a_folder_is_written_as_it_is(tmp_path: Path, name: str) -> None:
    folder, out = model(tmp_path / name, max_position_embeddings=512), tmp_path / "erratad.yaml"
    assert init("--model", folder, "--out", out).exit_code == 0
    config = load_config(out)
    assert config.model.path == folder
    assert (config.serving.max_model_len, config.training.max_sequence_tokens) == (512, 512)


def test_a_file_that_is_there_stays_without_force(tmp_path: Path) -> None:
    folder, out = model(tmp_path), tmp_path / "erratad.yaml"
    out.write_text("mine")
    done = init("--model", folder, "--out", out)
    assert (done.exit_code, out.read_text()) == (2, "mine")
    assert "--force" in done.stderr
    assert init("--model", folder, "--out", out, "--force").exit_code == 0
    assert load_config(out).model.path == folder


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("nowhere", "there is no folder nowhere"),
        ("nobody/no-such-model", "hf download nobody/no-such-model --local-dir models/no-such-model"),
        ("./nobody/none", "there is no folder"),
        ("a//b", "there is no folder"),
    ],
)
def test_a_missing_model_writes_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = init("--model", named)
    assert done.exit_code == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    done = init("--model", tmp_path, "--out", tmp_path / "erratad.yaml")
    assert done.exit_code == 2
    assert "config.json" in done.stderr
    assert not (tmp_path / "erratad.yaml").exists()


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    done = init("--model", model(tmp_path), "--out", tmp_path / "no" / "folder.yaml")
    assert done.exit_code == 2
    assert "--out" in done.stderr


def test_a_problem_of_the_model_exits_with_2_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_config, "check", lambda _config: Findings(problems=("chat.template: none",)))
    out = tmp_path / "erratad.yaml"
    done = init("--model", model(tmp_path), "--out", out)
    assert done.exit_code == 2
    assert "chat.template: none" in done.stderr
    assert load_config(out)


def test_a_name_of_the_hub_is_the_downloaded_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(model(tmp_path), revision)
    (revision.parents[1] / "refs").mkdir()
    (revision.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert new_config.find_model("some/model") == revision


def test_the_learning_rate_falls_with_the_size() -> None:
    rates = [float(new_config._learning_rate(billions)) for billions in (0.1, 1.5, 7, 70)]
    assert rates == [4e-4, 2e-4, 1e-4, 1e-4]


def test_what_config_json_does_not_say_is_left_out(tmp_path: Path) -> None:
    folder = model(tmp_path)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    facts = new_config.ModelFacts.read(folder)
    assert (facts.context, facts.cache_bytes_per_token) == (None, None)
    assert len(list(facts.notes())) == 1
    with pytest.raises(ConfigError):
        new_config.ModelFacts.read(tmp_path)
