"""Checks an answer against the rules of a report or golden item. Safe for untrusted rules.

Reports come from outside, so rules are limited like any other input. Patterns and JSON Schemas run in a child process
with a limit of CPU time and of memory, a schema is never fetched from the network, and a rule that cannot be decided
counts as failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from connectors.checker.bounds import schema_excess, texts_excess
from connectors.checker.client import Job, ask
from connectors.messages import Checks
from daemon.text.contacts import holds_value_of
from daemon.text.words import normalised

TIMEOUT_S = 0.5
"""CPU seconds for the patterns and schemas of one answer together, also if several reports have some."""

Rules = Checks | tuple[Checks, ...]
"""The rules of one report, or of several reports of the same answer: an answer must meet all of them."""


def failures(checks: Rules, text: str, *, timeout_s: float | None = None) -> list[str]:
    """The rules that `text` breaks, one sentence each; empty if it passes.

    Text comparisons ignore case, white space, Unicode presentation, invisible characters and typographic quotes. The
    regular expression gets the unchanged text. For `json_schema` the whole answer must be JSON; one Markdown code fence
    around it is removed first, prose is not. An empty answer fails always: a broken adapter that answers nothing must
    not pass just because it says nothing wrong. A rule beyond the limits of `connectors.checker.bounds` fails always.

    `timeout_s`: CPU seconds for all patterns and schemas together; None: `TIMEOUT_S`.
    """
    if not text.strip():
        return ["the answer is empty"]
    every = checks if isinstance(checks, tuple) else (checks,)
    child = _Child(TIMEOUT_S if timeout_s is None else timeout_s)
    return [
        fault
        for one in every
        for fault in (*_text_failures(one, text), *_regex_failures(one, text, child), *_json_failures(one, text, child))
    ]


def lasting(rules: Rules) -> Rules:
    """The rules that stay broken if an answer gets longer; for an answer that was cut off."""
    if isinstance(rules, tuple):
        return tuple(_lasting(one) for one in rules)
    return _lasting(rules)


def _lasting(checks: Checks) -> Checks:
    return Checks(must_not_contain=checks.must_not_contain, max_words=checks.max_words)


class _Child:
    """Asks the child process until the time of one answer is used up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = self._left_s = timeout_s

    def fault(self, job: Job, what: str, **rule: Any) -> str | None:
        late = f"{what} was not decided within {self._timeout_s:g} s"
        if self._left_s <= 0:
            return late
        verdict = ask(job, timeout_s=self._left_s, **rule)
        self._left_s -= verdict.cpu_s
        if verdict.undecided == "time":
            return late
        return f"{what} was not decided: {verdict.undecided}" if verdict.undecided else verdict.fault


def _text_failures(checks: Checks, text: str) -> Iterator[str]:
    excess = texts_excess([*checks.must_contain, *checks.must_not_contain])
    if excess is None:
        yield from _contents(checks, text)
    else:
        yield f"the rule cannot be checked: must_contain and must_not_contain {excess}"
    if checks.max_words is not None and (words := len(text.split())) > checks.max_words:
        yield f"has {words} words, more than {checks.max_words}"


def _contents(checks: Checks, text: str) -> Iterator[str]:
    answer = normalised(text)
    # a value that was redacted at intake is met by its placeholder, or by any value of its kind
    for wanted in checks.must_contain:
        if normalised(wanted) not in answer and not holds_value_of(wanted, text):
            yield f"does not contain {wanted!r}"
    for unwanted in checks.must_not_contain:
        needle = normalised(unwanted)
        if needle and (needle in answer or holds_value_of(unwanted, text)):
            yield f"contains {unwanted!r}"


def _regex_failures(checks: Checks, text: str, child: _Child) -> Iterator[str]:
    if checks.regex is None:
        return
    what = f"the pattern {checks.regex!r}"
    fault = child.fault("search", what, pattern=checks.regex, text=text)
    if fault is not None:
        yield f"{fault} {what}" if fault == "does not match" else fault


def _json_failures(checks: Checks, text: str, child: _Child) -> Iterator[str]:
    schema = checks.json_schema
    if schema is None:
        return
    excess = schema_excess(schema)
    if excess is not None:
        yield f"the rule cannot be checked: the JSON Schema {excess}"
        return
    fault = child.fault("validate", "the JSON Schema", schema=schema, text=text)
    if fault is not None:
        yield fault
