"""The parts of a measurement: traps that make mistakes, and probes that show the effect of learning from them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from connectors.messages import Checks
from daemon.text.refusal import is_refusal
from daemon.text.rules import failures

T = TypeVar("T")

SPLIT_SEED = 20231
"""Of the split into mistakes and probes: the same for all seeds of training, so that they differ by training alone."""


class Wants(StrEnum):
    """The condition for a good answer."""

    RULES = "rules"
    HELP = "help"
    REFUSAL = "refusal"
    TEXT = "text"
    """No answer is asked for: the bits per token of a given one are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question of a suite, and how its answer is judged."""

    suite: str
    id: str
    messages: tuple[Mapping[str, str], ...]
    wants: Wants
    checks: Checks | None = None
    reference: str | None = None

    def good(self, answer: str) -> bool:
        """By rule alone: no model judges."""
        if self.wants is Wants.REFUSAL:
            return is_refusal(answer)
        kept = self.checks is None or not failures(self.checks, answer)
        if self.wants is Wants.HELP:
            return kept and bool(answer.strip()) and not is_refusal(answer)
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A question that the model may answer badly, with the reason that a reporter would give.

    `clean`: the same request without the trap; the model's own answer to it is the correction where none is given.
    """

    id: str
    category: str
    messages: tuple[Mapping[str, str], ...]
    reason: str
    probe: Probe
    correction: str | None = None
    clean: tuple[Mapping[str, str], ...] | None = None
    others: str | None = None
    """Another model's bad answer to the same question, where one is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    traps: tuple[Trap, ...]
    probes: tuple[Probe, ...]


def digest(value: object) -> str:
    """A short hash of everything a result depends on, so that results of other settings are not mixed up with it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def scenario_key(scenario: Scenario) -> str:
    """Names a scenario and its size: another size has other traps and probes."""
    ids = [[trap.id for trap in scenario.traps], [(probe.suite, probe.id) for probe in scenario.probes]]
    return f"{scenario.name}-{digest(ids)}"


def traps_key(scenario: Scenario) -> str:
    """Names its traps, whatever the probes."""
    return f"{scenario.name}-{digest([trap.id for trap in scenario.traps])}"


def user(text: str) -> tuple[Mapping[str, str], ...]:
    return ({"role": "user", "content": text},)


def draw(rows: Sequence[T], key: str) -> list[T]:
    """The rows in an order of their own, the same each time."""
    shuffled = list(rows)
    random.Random(f"{SPLIT_SEED}/{key}").shuffle(shuffled)
    return shuffled
