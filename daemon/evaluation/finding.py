"""One criterion's finding, and how it compares and writes figures."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Protocol

from daemon.labels import Criterion

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One criterion, whether it holds, and a sentence with its figures."""

    criterion: Criterion
    holds: bool
    sentence: str


def at_least(value: float, bound: float) -> bool:
    """value >= bound, with a tolerance for rounding; False if either is NaN."""
    return value >= bound - _ROUNDING


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def number(count: float) -> float:
    """A count of votes as it is written: a whole number where it is one, else with two decimals."""
    whole = round(count)
    return whole if abs(count - whole) < _ROUNDING else round(count, 2)


class Voted(Protocol):
    """Items and their votes."""

    @property
    def items(self) -> Sized: ...
    @property
    def votes(self) -> float: ...


def votes_of(counted: Voted, what: str) -> str:
    """The number of items in words; with the number of votes if they differ."""
    items, votes = len(counted.items), number(counted.votes)
    return f"{items} {what}" if votes == items else f"{votes} votes of {items} {what}"
