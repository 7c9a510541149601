"""Job files: those of earlier versions are read, and the child needs nothing but the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.config.chat import ChatConfig
from daemon.training.job import Phase, TrainingJob, TrainingProgress
from tests.fixtures.training import training_config

JOB = {
    "run_id": 1,
    "generation": 1,
    "name": "aligned-g000001",
    "recipe": "mistake-analysis",
    "seed": 1,
    "run_folder": "/runs/1",
    "adapters_dir": "/adapters",
    "model_path": "/model",
    "base_fingerprint": "f" * 64,
    "training": training_config().model_dump(mode="json"),
}


def test_a_job_of_an_earlier_version_has_the_default_section_chat(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(JOB))
    assert TrainingJob.load(tmp_path / "job.json").chat == ChatConfig()


def test_the_section_chat_survives_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ChatConfig.model_validate({"template": "own.jinja", "reasoning": ["<a>", "</a>"], "date": "2026-01-31"})
    job = TrainingJob.model_validate({**JOB, "chat": given.absolute()})
    (tmp_path / "job.json").write_text(job.model_dump_json())

    loaded = TrainingJob.load(tmp_path / "job.json")

    assert loaded.chat == given.absolute()
    assert loaded.chat.template == tmp_path / "own.jinja"


def test_progress_is_a_sentence() -> None:
    assert str(TrainingProgress()) == "loads the model and the examples"
    begun = TrainingProgress(phase=Phase.TRAINING, step=4, steps=12, tokens=900)
    assert str(begun) == "trains, step 4 of 12, 900 tokens"
    assert str(begun.model_copy(update={"eta_s": 61.4})) == "trains, step 4 of 12, 900 tokens, about 61 s left"
