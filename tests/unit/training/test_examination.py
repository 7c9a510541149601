"""The child process of `check-config`: it answers, fails, or hangs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from daemon.config import Config
from daemon.training import examination
from daemon.training.examination import Findings, examine_model


def _child(
    monkeypatch: pytest.MonkeyPatch, *, output: bytes = b"", errors: bytes = b"", hangs: bool = False
) -> list[Any]:
    inputs = []

    def run(command: list[str], *, input: bytes, timeout: float, **_: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        inputs.append(input)
        if hangs:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, output, errors)

    monkeypatch.setattr(examination.subprocess, "run", run)
    return inputs


def test_the_findings_of_the_child_are_returned(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Findings(problems=("a",), notes=("b",))
    asked = _child(monkeypatch, output=found.model_dump_json().encode())
    assert examine_model(make_config(), serves_on_gpu=True) == found
    assert b'"serves_on_gpu":true' in asked[0]


def test_a_child_that_fails_is_a_problem_with_the_end_of_its_log(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    _child(monkeypatch, errors=b"MemoryError: no room")
    [problem] = examine_model(make_config(), serves_on_gpu=False).problems
    assert problem == "model.path: the look at the model failed:\nMemoryError: no room"


def test_a_child_that_hangs_is_a_problem(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    _child(monkeypatch, hangs=True)
    [problem] = examine_model(make_config(), serves_on_gpu=False).problems
    assert problem.startswith("model.path: the look at the model took over 120 s")
