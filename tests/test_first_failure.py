"""What `tests.fixtures.first_failure` does, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DRILL = """
import pytest

@pytest.fixture(scope="module")
def stand():
    return "healthy"

def test_before(stand): ...
def test_that_breaks_it(stand): assert stand != "healthy"
def test_after(stand): ...
def test_without_it(): ...
"""


def test_after_a_failure_the_drills_other_tests_fail_at_once_and_name_it(tmp_path: Path) -> None:
    (tmp_path / "test_drill.py").write_text(DRILL)
    plugins = ["-p", "tests.fixtures.first_failure", "-p", "no:randomly", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR at setup of test_after" in done.stdout
    assert "test_that_breaks_it failed first, on the same daemon and services" in done.stdout
