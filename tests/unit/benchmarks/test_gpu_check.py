"""`make gpu-check` in tiny form on the CPU, on a machine that has PyTorch, transformers, peft and pydantic only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu_check import PARTS, page

ROOT = Path(__file__).parents[3]
ABSENT = (
    "apscheduler", "alembic", "bitsandbytes", "fastapi", "kafka", "prometheus_client", "sqlalchemy", "structlog", "trl",
    "uvicorn", "vllm",
)  # fmt: skip
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last line of one run; its page lies in `report`."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(WITHOUT)  # the training child reads it, too
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu_check", "--tiny", "--report", str(folder / "report")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    [written] = (folder / "report").iterdir()
    return {**json.loads(done.stdout.splitlines()[-1]), "page": written.read_text()}


@pytest.mark.slow
def test_the_trainer_needs_no_package_of_the_daemon(found: dict[str, Any]) -> None:
    assert found["ok"]
    assert {name: found[name].get("ok", True) for name in PARTS} == dict.fromkeys(PARTS, True)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(found: dict[str, Any]) -> None:
    assert found["resume"]["killed_after_step"] >= 5
    assert found["resume"]["killed_after_step"] < found["resume"]["steps"]
    assert found["resume"]["weight_difference"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_losses_and_gradients_are_compared_step_by_step(found: dict[str, Any]) -> None:
    assert found["correctness"]["steps"] > 1
    assert found["correctness"]["gradients"] == 28  # two matrices for each of seven modules in two layers
    assert found["correctness"]["loss_difference"] < 1e-4


@pytest.mark.slow
def test_two_recipes_learn(found: dict[str, Any]) -> None:
    for recipe in ("sft", "consistency"):
        assert found["recipes"][recipe]["last_loss"] < found["recipes"][recipe]["first_loss"]


@pytest.mark.slow
def test_what_is_not_installed_is_said(found: dict[str, Any]) -> None:
    assert found["speed"]["trl"] == "not installed"
    assert found["speed"]["4bit"] == "bitsandbytes is not installed"
    assert found["speed"]["tiny"]["ours"]["tokens_per_second"] > 0
    assert found["teacher"]["tokens_per_second"] > 0


@pytest.mark.slow
def test_the_page_names_date_and_device(found: dict[str, Any]) -> None:
    assert f"({found['date']})" in found["page"]
    assert found["device"] in found["page"]
    assert "| tiny | ours |" in found["page"]


def test_a_part_that_failed_stands_on_the_page() -> None:
    speeds = {"8B": {"ours": {"error": "out of memory"}}, "4bit": "bitsandbytes is not installed"}
    parts = {name: {"ok": True} for name in PARTS} | {"speed": speeds, "resume": {"ok": False, "error": "no child"}}
    text = page({"date": "2026-11-27", "device": "a card", "packages": {"torch": "2"}, "seconds": 1.0, **parts})
    assert '| 8B | ours | {"error": "out of memory"} | |' in text
    assert "- 4bit: bitsandbytes is not installed" in text
    assert '- resume: `{"ok": false, "error": "no child"}`' in text
