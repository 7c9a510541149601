"""Checks an answer against the rules of a report or golden item. Pure, and safe for untrusted rules.

Reports come from outside, so rules are limited like any other input. A regular expression and a JSON Schema each get
`TIMEOUT_S`, a schema is never fetched from the network, and a rule that cannot be decided counts as failed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import UnknownType
from jsonschema.validators import extend
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from connectors.messages import Checks, refuse_constant
from daemon.text.words import normalised

TIMEOUT_S = 1.0

_FENCE = regex.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?\s*```\s*", regex.DOTALL | regex.IGNORECASE)
_MALFORMED = (regex.error, UnknownType, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Errors of jsonschema on a malformed part that the meta-schema does not check but a `$ref` uses."""


Rules = Checks | tuple[Checks, ...]
"""The rules of one report, or of several reports of the same answer: an answer must meet all of them."""


def failures(checks: Rules, text: str) -> list[str]:
    """The rules that `text` breaks, one sentence each; empty if it passes.

    Text comparisons ignore case, white space, Unicode presentation, invisible characters and typographic quotes. The
    regular expression gets the unchanged text. For `json_schema` the whole answer must be JSON; one Markdown code fence
    around it is removed first, prose is not. An empty answer fails always: a broken adapter that answers nothing must
    not pass just because it says nothing wrong.
    """
    if not text.strip():
        return ["the answer is empty"]
    every = checks if isinstance(checks, tuple) else (checks,)
    return [
        fault
        for one in every
        for fault in (*_text_failures(one, text), *_regex_failures(one, text), *_json_failures(one, text))
    ]


def _text_failures(checks: Checks, text: str) -> Iterator[str]:
    answer = normalised(text)
    for wanted in checks.must_contain:
        if normalised(wanted) not in answer:
            yield f"does not contain {wanted!r}"
    for unwanted in checks.must_not_contain:
        needle = normalised(unwanted)
        if needle and needle in answer:
            yield f"contains {unwanted!r}"
    words = len(text.split())
    if checks.max_words is not None and words > checks.max_words:
        yield f"has {words} words, more than {checks.max_words}"


def _regex_failures(checks: Checks, text: str) -> Iterator[str]:
    if checks.regex is None:
        return
    try:
        if regex.search(checks.regex, text, timeout=TIMEOUT_S) is None:
            yield f"does not match the pattern {checks.regex!r}"
    except TimeoutError:
        yield f"the pattern {checks.regex!r} was not decided within {TIMEOUT_S:g} s"


def _json_failures(checks: Checks, text: str) -> Iterator[str]:
    schema = checks.json_schema
    if schema is None:
        return
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as exc:
        yield f"is not JSON: {exc}"
        return
    if schema is True:
        return
    if schema is False:
        yield "the JSON Schema allows no answer"
        return
    problem = _schema_problem(schema, value)
    if problem is not None:
        yield problem


def _schema_problem(schema: Mapping[str, JsonValue], value: JsonValue) -> str | None:
    # at a "$schema", jsonschema 4.26 switches from our bounded validator to a plain one
    schema = {keyword: part for keyword, part in schema.items() if keyword != "$schema"}
    for keyword in ("$schema", "patternProperties"):
        if keyword in _keys(schema):
            return f"the JSON Schema uses {keyword!r} inside, which cannot be checked in bounded time"
    validator = _bounded_validator(time.monotonic() + TIMEOUT_S)(schema, registry=Registry())
    try:
        error = next(validator.iter_errors(value), None)
    except Unresolvable as exc:
        return f"the JSON Schema refers to {exc.ref!r}, which is not in it"
    except (TimeoutError, RecursionError):
        return f"the JSON Schema was not decided within {TIMEOUT_S:g} s"
    except _MALFORMED as exc:
        return f"the JSON Schema is malformed: {exc!s:.200}"
    return None if error is None else f"is not valid under the JSON Schema: {error.message:.200}"


def _keys(schema: Mapping[str, JsonValue]) -> set[str]:
    """All keys, at any depth."""
    keys: set[str] = set()
    parts: list[Any] = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            keys.update(part)
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return keys


def _identity(value: JsonValue) -> Hashable:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return "object", frozenset((key, _identity(item)) for key, item in value.items())
    if isinstance(value, list):
        return "list", tuple(_identity(item) for item in value)
    return isinstance(value, bool), value


def _bounded_validator(deadline: float) -> Any:
    """A 2020-12 validator class that raises `TimeoutError` after the deadline (monotonic seconds).

    The standard one matches `pattern` with `re`, which cannot be interrupted, follows references without limit, and
    compares each pair of items for `uniqueItems`.
    """

    def bounded(check: Callable[..., Iterator[ValidationError] | None]) -> Callable[..., Iterator[ValidationError]]:
        def checked(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            if time.monotonic() > deadline:
                raise TimeoutError
            yield from check(validator, rule, instance, schema) or ()

        return checked

    def pattern(_validator: Any, rule: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and regex.search(rule, instance, timeout=TIMEOUT_S) is None:
            yield ValidationError(f"{instance!r} does not match {rule!r}")

    def unique_items(_validator: Any, rule: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
        if rule is True and isinstance(instance, list) and len({_identity(item) for item in instance}) < len(instance):
            yield ValidationError("items of the list are not unique")

    keywords = {**Draft202012Validator.VALIDATORS, "pattern": pattern, "uniqueItems": unique_items}
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {keyword: bounded(check) for keyword, check in keywords.items()}
    )
