"""The child process: a parent that forks a worker, and forks another one when a question took too long.

The worker reads one question per line and answers with one line. The kernel ends it at the question's limit of CPU
time, also inside of a C function; more memory than `MEMORY_BYTES` is not given to it. If it dies for another reason,
the parent ends, too: it does not know whether a question was read, and the client asks a new child again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import regex
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.exceptions import SchemaError, UnknownType
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

MEMORY_BYTES = 192 * 2**20
"""Memory of the worker beyond that of its start."""
MAX_QUESTIONS = 5000
"""Then another worker follows, without the memory that this one has gathered."""
_REPLACE_ME = 75
_FENCE = regex.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?\s*```\s*", regex.DOTALL | regex.IGNORECASE)
_NOT_A_PATTERN = (regex.error, RecursionError, OverflowError, ValueError, TypeError, LookupError, AttributeError)
_MALFORMED = (regex.error, re.error, UnknownType, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Errors of jsonschema on a malformed part that the meta-schema does not check but a `$ref` uses."""


def main() -> None:
    """Answer questions until the standard input ends."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    with contextlib.suppress(ValueError, OSError):
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        worker = os.fork()
        if worker == 0:
            _work()
        _, status = os.waitpid(worker, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGPROF:
            _reply(undecided="time")
        elif code != _REPLACE_ME:
            return


def _work() -> None:
    code = 1
    try:
        code = _answer_all()
    finally:
        os._exit(code)


def _answer_all() -> int:
    for _ in range(MAX_QUESTIONS):
        line = _line()
        if not line:
            return 0
        question = json.loads(line)
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, question["timeout_s"])
        try:
            fault, undecided = _JOBS[question["job"]](question), ""
        except MemoryError:
            fault, undecided = None, "memory"
        except RecursionError:
            fault, undecided = None, "time"
        except BaseException:  # noqa: BLE001 - a panic of the Rust package rpds, deep in a recursion, is no Exception
            fault, undecided = None, "error"
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(fault=fault, undecided=undecided, cpu_s=time.process_time() - started)
        if undecided:
            break
    return _REPLACE_ME


def _line() -> bytes:
    """One question. The next one comes after the answer, so nothing of it is read here."""
    chunks = []
    while chunk := os.read(0, 65_536):
        chunks.append(chunk)
        if chunk.endswith(b"\n"):
            break
    return b"".join(chunks)


def _reply(**verdict: Any) -> None:
    rest = memoryview(json.dumps(verdict).encode() + b"\n")
    while rest:
        rest = rest[os.write(1, rest) :]


# --- the jobs ---


def _pattern(question: Mapping[str, Any]) -> str | None:
    try:
        regex.compile(question["pattern"])
    except _NOT_A_PATTERN as exc:
        return f"is not a regular expression: {exc!s:.200}"
    return None


def _schema(question: Mapping[str, Any]) -> str | None:
    try:
        Draft202012Validator.check_schema(question["schema"], format_checker=_FORMATS)
    except SchemaError as exc:
        return f"is not a JSON Schema: {exc.message:.200}"
    return None


def _search(question: Mapping[str, Any]) -> str | None:
    try:
        found = regex.search(question["pattern"], question["text"])
    except _NOT_A_PATTERN as exc:
        return f"the pattern is malformed: {exc!s:.200}"
    return "does not match" if found is None else None


def _validate(question: Mapping[str, Any]) -> str | None:
    text, schema = question["text"], question["schema"]
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        return f"is not JSON: {exc}"
    if isinstance(schema, bool):
        return None if schema else "the JSON Schema allows no answer"
    # at a "$schema", jsonschema 4.26 switches from our validator to a plain one
    schema = {keyword: part for keyword, part in schema.items() if keyword != "$schema"}
    try:
        error = next(_VALIDATOR(schema, registry=Registry()).iter_errors(value), None)
    except Unresolvable as exc:
        return f"the JSON Schema refers to {exc.ref!r}, which is not in it"
    except _MALFORMED as exc:
        return f"the JSON Schema is malformed: {exc!s:.200}"
    return None if error is None else f"is not valid under the JSON Schema: {error.message:.200}"


_JOBS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "pattern": _pattern,
    "schema": _schema,
    "search": _search,
    "validate": _validate,
}


_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("regex", raises=_NOT_A_PATTERN)
def _is_a_pattern(value: object) -> bool:
    return not isinstance(value, str) or regex.compile(value) is not None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _identity(value: Any) -> Hashable:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, _identity(item)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple(_identity(item) for item in value)
    return isinstance(value, bool), value


def _matches(_validator: Any, rule: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and regex.search(rule, instance) is None:
        yield ValidationError(f"{instance!r} does not match {rule!r}")


def _unique_items(_validator: Any, rule: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """The standard one compares each pair of items."""
    if rule is True and isinstance(instance, list) and len({_identity(item) for item in instance}) < len(instance):
        yield ValidationError("items of the list are not unique")


_VALIDATOR = extend(Draft202012Validator, {"pattern": _matches, "uniqueItems": _unique_items})  # type: ignore[no-untyped-call]
