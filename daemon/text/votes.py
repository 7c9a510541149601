"""Votes over what the reports of one answer say.

Each principal has one vote. Its reporters share it: a claim of 50 of its 51 reporters has 50/51 of the vote, never more
than one. Whoever invents reporters gains nothing against another principal. Inside one, the majority decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import TypeVar

from daemon.parts import Part

Key = TypeVar("Key")


def votes(claims: Sequence[Sequence[Part]]) -> list[Fraction]:
    """The votes of each of the claims that compete. A claim is the parts that make it."""
    counts = [_reporters(parts) for parts in claims]
    totals: dict[str, int] = defaultdict(int)
    for found in counts:
        for principal, number in found.items():
            totals[principal] += number
    return [sum((Fraction(number, totals[name]) for name, number in found.items()), Fraction(0)) for found in counts]


def strongest_first(claims: Mapping[Key, Sequence[Part]]) -> list[Key]:
    """The claims by their votes; with equally many, the newest first."""
    weights = dict(zip(claims, votes(list(claims.values())), strict=True))
    return sorted(claims, key=lambda key: (weights[key], max(map(_age, claims[key]))), reverse=True)


def newest_first(parts: Sequence[Part]) -> list[Part]:
    return sorted(parts, key=_age, reverse=True)


def _reporters(parts: Sequence[Part]) -> dict[str, int]:
    """The number of reporters by principal."""
    names: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        names[part.principal].add(part.reporter)
    return {principal: len(found) for principal, found in names.items()}


def _age(part: Part) -> tuple[datetime, str]:
    return part.received_at, part.report_id
