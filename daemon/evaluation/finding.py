"""One criterion's finding, and how it compares and writes figures."""

from __future__ import annotations

from dataclasses import dataclass

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
