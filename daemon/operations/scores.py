"""The scores of an evaluation: items of each suite that both arms answered well, and each strength that was tried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from daemon.operations.shown import MeasuredView, View


class SuiteScore(View):
    """The number of items of one suite that each arm answered well. Items without a rule do not count."""

    suite: str
    guided: bool
    items: int
    passed_before: int
    passed_after: int


def suite_scores(measured: Iterable[MeasuredView]) -> list[SuiteScore]:
    """Counts per suite, with and without guidance, over the items judged for both arms."""
    groups: dict[tuple[str, bool], list[tuple[bool, bool]]] = {}
    for item in measured:
        if item.before is None or item.after is None or item.before.passed is None or item.after.passed is None:
            continue
        groups.setdefault((item.suite, item.guided), []).append((item.before.passed, item.after.passed))
    return [
        SuiteScore(
            suite=suite,
            guided=guided,
            items=len(pairs),
            passed_before=sum(before for before, _ in pairs),
            passed_after=sum(after for _, after in pairs),
        )
        for (suite, guided), pairs in groups.items()
    ]


def strength_lines(figures: Mapping[str, Any]) -> list[str]:
    """What the gate says of each strength that it measured; nothing where only the trained one was."""
    tried = figures.get("strengths", [])
    return [_strength_line(one, served=one["strength"] == figures["strength"]) for one in tried] if tried[1:] else []


def _strength_line(one: Mapping[str, Any], *, served: bool) -> str:
    said = "passes" if one["accepted"] else f"fails: {'; '.join(one['reasons'])}"
    chosen = ", chosen" if served and one["accepted"] else ""
    far = "" if one["kl_to_base"] is None else f", {one['kl_to_base']:.3f} nats per token from the base model"
    return f"strength {one['strength']:g}{chosen}: gain {one['gain']:.3g}{far}; {said}"
