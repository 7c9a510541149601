"""The wheel holds what erratad needs at run time, and works in an environment without the checkout."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import __version__
from tests.fixtures.wheel import ROOT, Program


def needed() -> Iterator[str]:
    """Every file of the two packages that git knows, those behind links included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "connectors", "daemon"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_dir():
            yield from (f"{name}/{each.relative_to(path)}" for each in path.rglob("*") if each.is_file())
        elif path.is_file():
            yield name


def test_the_wheel_holds_every_file_of_the_two_packages_and_no_other(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    assert held == set(needed())
    assert {"daemon/data/configs/demo.yaml", "daemon/data/deploy/prometheus/rules/alerts.yml"} <= held
    assert wheel.name == f"erratad-{__version__}-py3-none-any.whl"


def test_the_installed_command_is_the_wheels(installed_erratad: Program) -> None:
    assert installed_erratad("version").stdout == f"erratad {__version__}\n"
    folder = Path(installed_erratad("files").stdout.strip())
    assert not folder.is_relative_to(ROOT)
    for name in ("configs/default.yaml", "deploy/grafana/dashboards/overview.json", "deploy/systemd/erratad.service"):
        assert (folder / name).is_file(), name


def test_the_demo_of_the_wheel_finds_its_configuration_and_its_questions(
    installed_erratad: Program, tmp_path: Path
) -> None:
    assert "--scenario" in installed_erratad("demo", "--help").stdout
    code = "from daemon.demo.process import CONFIG; from daemon.config import load_config; load_config(CONFIG)"
    code += (
        "; from daemon.demo.scenario import SCENARIO, load_scenario; print(len(load_scenario(SCENARIO)) > 20, CONFIG)"
    )
    python = Path(installed_erratad("files").stdout.strip()).parents[4] / "bin" / "python"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("True ")
    assert str(ROOT) not in done.stdout


def test_a_wrong_key_is_answered_with_the_place_of_the_file_that_explains_all(
    installed_erratad: Program, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("model: {path: x, colour: red}\n")
    done = installed_erratad("check-config", "--config", tmp_path / "wrong.yaml")
    assert done.returncode == 2
    assert f"{installed_erratad('files').stdout.strip()}/configs/default.yaml explains every key" in done.stderr


@pytest.mark.slow
def test_init_of_the_wheel_writes_a_configuration_and_loads_the_model(
    installed_erratad: Program, tiny_model: Path, tmp_path: Path
) -> None:
    """One look at a model with the wheel's own child process takes about 10 s."""
    out = tmp_path / "erratad.yaml"
    done = installed_erratad("init", "--model", tiny_model, "--out", out)
    assert done.returncode == 0, done.stderr
    for said in (
        "takes system messages",
        "an answer ends with '<|im_end|>'",
        "up to 2048 tokens",
        "memory: the weights",
    ):
        assert said in done.stderr
    assert done.stdout == f"{out} is written and valid. Next: erratad run -c {out}\n"
