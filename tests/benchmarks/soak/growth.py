"""How fast each figure grows with the runs, how fast it may, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.stats import t

from daemon.store.counts import FOLD_FROM
from tests.benchmarks.soak.stand import ITEMS, MAX_REPORTS

PER = 100
"""Slopes and bounds are in units per this number of runs: with a run each night, fourteen weeks."""
CONFIDENCE = 0.95
WARM = 5
FEWEST = 10
"""Samples below which a slope says nothing."""
BOUNDS: Mapping[str, float] = {
    "memory_mib": 10,
    "descriptors": 1,
    "threads": 1,
    "children": 1,
    "chat_mib": 0.1,
    "other_mib": 0.1,
    "log_mib": 3,
    "series": 5,
}
"""Of what must not grow with the runs, except the log, which the service manager rotates."""
ROWS_OF_A_REPORT: Mapping[str, float] = {
    **dict.fromkeys(("reports", "lessons", "clusters", "report_texts", "report_index"), 1),
    "report_index_terms": 15,  # each report of the soak names three new words
    "leader_words": 15,
}
"""Rows that a report keeps until it is archived."""
ROWS_OF_A_RUN: Mapping[str, float] = {
    **dict.fromkeys(("runs", "adapters", "verdicts"), 1),
    "audit": 3,
    "run_items": MAX_REPORTS,
    "retests": 2 * ITEMS,
    "answers": 2 * ITEMS * 12,  # of reports: two arms, with and without guidance, and four more samples of each arm
    "traffic": 2,
    "traffic_seen": 2,
}
"""Rows of lineage that a run keeps, and, of the last two, what its generation answered in five minutes."""
ROWS_ELSEWHERE = 10
"""Rows of any other table: they are deleted, or come with people and daemons, not with runs."""
STORE_KIB_OF_A_REPORT = 20
"""With its part of the rows of runs, and all indexes."""
SLACK = 1.1
"""Of the bounds of tables: redelivered and renewed lessons, and runs that were not asked for."""
KEPT_OF_RUNS = 20
"""What the runs of two minutes leave, on a quick machine: what is kept for a minute, looked at once a minute."""
CEILINGS: Mapping[str, float] = {
    "adapters_folders": KEPT_OF_RUNS,
    "adapters_mib": 0.2 * KEPT_OF_RUNS,
    "runs_folders": KEPT_OF_RUNS,
    "runs_mib": 0.1 * KEPT_OF_RUNS,
    "rows.outbox": 20 * KEPT_OF_RUNS,
    "rows.deliveries": 80 * KEPT_OF_RUNS,
    "rows.usage": 2 * 25,  # an hour's rows of two senders, for a day
    **dict.fromkeys(("rows.report_counts", "rows.flag_days"), 1.5 * FOLD_FROM),
}
"""Largest values of what is removed after a while or folded. A slope would follow the pace of the machine."""


class Verdict(StrEnum):
    KEPT = "kept"
    """The whole interval is within the bound."""
    BROKEN = "broken"
    """The whole interval is above the bound."""
    OPEN = "open"
    """The bound is inside the interval: more runs are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """In units per `PER` runs, with the interval of a least-squares fit."""

    slope: float
    low: float
    high: float

    def against(self, bound: float) -> Verdict:
        if self.high <= bound:
            return Verdict.KEPT
        return Verdict.BROKEN if self.low > bound else Verdict.OPEN


def fit(values: Sequence[float]) -> Slope:
    """Of one value per run, in their order; at least three."""
    runs = np.arange(len(values)) / PER
    away = runs - runs.mean()
    spread = float(away @ away)
    slope = float(away @ np.asarray(values)) / spread
    left = np.asarray(values) - np.mean(values) - slope * away
    freedom = len(values) - 2
    error = float(np.sqrt(left @ left / freedom / spread))
    wide = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Slope(slope=slope, low=slope - wide, high=slope + wide)


def bound_of(figure: str, *, reports: int) -> float:
    """How much the figure may grow in `PER` runs of this number of new reports each."""
    if figure == "store_mib":
        return PER * reports * STORE_KIB_OF_A_REPORT / 1024
    if figure in BOUNDS:
        return BOUNDS[figure]
    table = figure.removeprefix("rows.")
    rows = reports * ROWS_OF_A_REPORT.get(table, 0) + ROWS_OF_A_RUN.get(table, 0)
    return SLACK * PER * rows or ROWS_ELSEWHERE


def judged(samples: Sequence[Mapping[str, float]], *, reports: int, restarted: int = 0) -> dict[str, dict[str, Any]]:
    """Figure -> its slope over the samples that are settled, its bound and the verdict; {} if too few are.

    Settled is the second half, without the first `WARM` samples after the daemon's last restart, which was before the
    sample of this number.
    """
    settled = samples[max(len(samples) // 2, restarted + WARM if restarted else 0) :]
    if len(settled) < FEWEST:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for figure in settled[0]:
        values = [one[figure] for one in settled]
        if figure in CEILINGS:
            verdict = Verdict.KEPT if max(values) <= CEILINGS[figure] else Verdict.BROKEN
            found[figure] = {"most": max(values), "ceiling": CEILINGS[figure], "verdict": verdict}
            continue
        slope, bound = fit(values), bound_of(figure, reports=reports)
        rounded = {name: round(getattr(slope, name), 3) for name in ("slope", "low", "high")}
        found[figure] = {**rounded, "bound": round(bound, 3), "verdict": slope.against(bound)}
    return found


def worst(slopes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The figure whose slope is the largest part of its bound."""
    shares = {figure: one["slope"] / one["bound"] for figure, one in slopes.items() if "slope" in one}
    if not shares:
        return None
    figure = max(shares, key=lambda name: shares[name])
    return {"figure": figure, "share_of_bound": round(shares[figure], 3)}
