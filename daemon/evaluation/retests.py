"""Asks reports again: which further answers are needed, and what all of them say. Pure; see `daemon.retest`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from daemon.evaluation.comparison import FIX_SUITES
from daemon.evaluation.measurement import EvalRequest
from daemon.evaluation.suites import Item
from daemon.labels import Suite
from daemon.records import Adapter, Answer
from daemon.retest import Passes, Retest, Side, missing


class Retesting:
    """The answers to the reports of one run so far, as served."""

    def __init__(
        self, items: Iterable[Item], answers: Iterable[Answer], *, candidate: Adapter, live: Adapter, most: int
    ) -> None:
        """`most`: how many answers of each arm are asked for at most (`evaluation.answers_per_report`)."""
        self._items = [item for item in items if item.suite in FIX_SUITES]
        self._arms = {Side.BEFORE: live, Side.AFTER: candidate}
        self._most = most
        judged = [one for one in answers if one.guided and one.suite in FIX_SUITES and one.passed is not None]
        self._answers = Counter((one.arm, one.item_id) for one in judged)
        self._passed = Counter((one.arm, one.item_id) for one in judged if one.passed)

    def further_requests(self) -> list[EvalRequest]:
        """Samples that may decide about a mistake that is not known to be fixed."""
        return [
            EvalRequest(item=item, arm=self._arms[side], guided=True, sample=sample)
            for item in self._items
            if item.is_open and (side := missing(*self._passes(item), answers=self._most)) is not None
            for sample in range(1, self._most)
        ]

    def results(self, run_id: int) -> dict[Suite, list[Retest]]:
        """By suite; only reports that rules or a judge decided on."""
        found: dict[Suite, list[Retest]] = {suite: [] for suite in FIX_SUITES}
        for item in self._items:
            before, after = self._passes(item)
            if before.answers or after.answers:
                found[item.suite].append(Retest.of(run_id, item.id, before, after, answers=self._most))
        return found

    def _passes(self, item: Item) -> tuple[Passes, Passes]:
        keys = [(arm.name, item.id) for arm in self._arms.values()]
        before, after = (Passes(passed=self._passed[key], answers=self._answers[key]) for key in keys)
        return before, after
