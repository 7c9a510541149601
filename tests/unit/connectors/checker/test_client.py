"""The child process that compiles and runs rules."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import psutil
import pytest

from connectors.checker import client
from connectors.checker.client import ask, pattern_fault, schema_fault

RECURSIVE = "(?i)paris|(?R)x+|" + "a" * 200
REPEATED = r"(?:[\w&&\p{L}]{1000}|b){1000}" * 20
ENDLESS = "^(a|aa)+$"


def answers() -> bool:
    return ask("search", pattern="b", text="abc", timeout_s=5).fault is None


@pytest.mark.parametrize(
    ("pattern", "text", "why"),
    [
        (ENDLESS, "a" * 60 + "b", "time"),
        (RECURSIVE, "hello world", "memory"),
        ("(?P>x)|(?<x>(?P>x)(?P>x))" + "a" * 200, "hello world", "memory"),
        ("(?:a{1000}){1000}", "hello world", "memory"),
        (REPEATED, "hello world", ""),
    ],
)
def test_a_pattern_that_takes_too_much_costs_one_question(pattern: str, text: str, why: str) -> None:
    verdict = ask("search", pattern=pattern, text=text, timeout_s=0.5)
    assert verdict.undecided
    assert verdict.undecided == (why or verdict.undecided)
    assert answers()


@pytest.mark.parametrize("pattern", ["(?:a{1000}){1000}", REPEATED])
def test_a_pattern_that_takes_too_much_to_compile_is_refused(pattern: str) -> None:
    assert "cannot be prepared within the limits" in str(pattern_fault(pattern))
    assert "cannot be prepared within the limits" in str(schema_fault({"items": {"pattern": pattern}}))


@pytest.mark.parametrize("pattern", [r"(?<=\$)\d+", r"(\w+) \1", r"\p{Lu}++", "(?:paris){e<=1}", "(?R)?x"])
def test_patterns_of_the_regex_module_are_taken(pattern: str) -> None:
    assert pattern_fault(pattern) is None
    assert schema_fault({"pattern": pattern}) is None


@pytest.mark.parametrize("pattern", ["(", "[a", "(?P<x>a)(?P=y)", "(" * 400 + ")" * 400, "a{2,1}"])
def test_a_malformed_pattern_is_named(pattern: str) -> None:
    assert "is not a regular expression" in str(pattern_fault(pattern))
    assert "is not a JSON Schema" in str(schema_fault({"items": {"pattern": pattern}}))


def test_a_text_that_only_looks_like_a_pattern_is_no_fault() -> None:
    assert schema_fault({"const": {"pattern": "("}}) is None


def _wide(depth: int) -> dict[str, Any]:
    return {"oneOf": [_wide(depth - 1)] * 2, "unevaluatedProperties": False} if depth else {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}] * 20}}, "$ref": "#/$defs/x"}, "{}"),
        ({"$dynamicAnchor": "x", "items": {"allOf": [{"$dynamicRef": "#x"}] * 20}}, "[" * 60 + "]" * 60),
        ({"items": {"pattern": ENDLESS}}, f'["{"a" * 60}b"]'),
        ({"patternProperties": {"^(x|xx)+$": True}}, f'{{"{"x" * 60}b": 1}}'),
        ({"items": {"anyOf": [{"type": "string"}] * 400}}, str([["a" * 1000] * 900]).replace("'", '"')),
    ],
)
def test_a_schema_that_takes_too_much_costs_one_question(schema: dict[str, Any], text: str) -> None:
    assert schema_fault(schema) is None
    verdict = ask("validate", schema=schema, text=text, timeout_s=0.3)
    assert verdict.undecided or verdict.fault
    assert verdict.cpu_s < 1
    assert answers()


def test_a_killed_child_is_replaced() -> None:
    for number in range(12):  # the worker dies before, while and after it reads the question
        client._CHILD.close()
        assert answers()
        process = client._CHILD._process
        assert process is not None
        [worker] = psutil.Process(process.pid).children()
        killer = threading.Timer(number * 5e-5, worker.kill)
        killer.start()
        started = time.monotonic()
        assert ask("search", pattern=f"^{number}$", text="1", timeout_s=5).fault == (
            None if number == 1 else "does not match"
        )
        assert time.monotonic() - started < client.WAIT_S / 2, "the client waited for an answer that never came"
        killer.join()
    process = client._CHILD._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert answers()


def test_a_stopped_child_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    client._CHILD.close()  # its worker may answer although the process was killed
    assert answers()
    process = client._CHILD._process
    assert process is not None
    [worker] = psutil.Process(process.pid).children()
    worker.suspend()
    monkeypatch.setattr(client, "WAIT_S", 1.0)
    verdict = ask("search", pattern="b", text="abc", timeout_s=5)
    assert verdict.fault is None
    assert verdict.undecided == ""


def test_a_new_worker_follows_after_many_questions() -> None:
    found = [ask("search", pattern=f"b(?:{number})?", text="abc", timeout_s=5).fault for number in range(5100)]
    assert set(found) == {None}


def test_threads_get_their_own_answers() -> None:
    found: dict[int, bool] = {}

    def search(number: int) -> None:
        verdicts = [ask("search", pattern=f"^{number}$", text=str(text), timeout_s=5) for text in range(8)]
        found[number] = [verdict.fault is None for verdict in verdicts] == [text == number for text in range(8)]

    threads = [threading.Thread(target=search, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


def test_a_fork_starts_its_own_child() -> None:
    assert answers()
    process = client._CHILD._process
    pid = os.fork()
    if pid == 0:
        os._exit(0 if answers() and client._CHILD._process is not process else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert answers()


def test_the_child_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATAD_TOKEN", "secret")
    client._CHILD.close()
    assert answers()
    process = client._CHILD._process
    assert process is not None
    assert set(psutil.Process(process.pid).environ()) <= {"PATH", "LD_LIBRARY_PATH"}
