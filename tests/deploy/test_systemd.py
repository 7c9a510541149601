"""The systemd units, by systemd-analyze."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.deploy import DEPLOY, ROOT, checked, tool


@pytest.fixture(params=["erratad.service", "erratad-vllm@.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    path = tmp_path / request.param
    path.write_text((DEPLOY / "systemd" / request.param).read_text().replace("/opt/erratad/bin/erratad", "/bin/true"))
    return path


def test_systemd_takes_the_units_without_a_warning(unit: Path) -> None:
    done = subprocess.run([tool("systemd-analyze"), "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_are_hardened(unit: Path) -> None:
    checked(tool("systemd-analyze"), "security", "--offline=true", "--threshold=25", unit)


def test_the_units_environment_example_names_the_variables_of_the_production_configuration() -> None:
    text = (DEPLOY / "systemd" / "erratad.env.example").read_text()
    production = (ROOT / "configs" / "production.yaml").read_text()
    assert set(re.findall(r"_env: (\w+)", production)) <= set(re.findall(r"^#?(\w+)=", text, re.MULTILINE))
