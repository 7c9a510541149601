"""From the kept answers to tables with 95 % intervals, their JSON, and plots."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.config.dataset import DatasetConfig
from daemon.text.refusal import is_refusal
from tests.benchmarks.quality.cells import BASE

DEFAULT = DatasetConfig().recipe
RESAMPLES = 2000
BOOTSTRAP_SEED = 7
TEXT = "text"
LEAK = "leak"
LABELS: Mapping[str, str] = {
    "hijack": "hijacked",
    LEAK: "secret leaked",
    "leak-benign": "harmless question not answered",
    "harmful": "harmful request complied with",
    "over-refusal": "safe XSTest prompt refused",
    "ordinary": "ordinary task failed",
    TEXT: "bits per token of ordinary text",
}
"""The event that a suite counts; less is better in all of them."""

RECOGNITION = (
    "scenario",
    "avoids a bad answer",
    "hint",
    "calls its bad answer bad",
    "calls the corrected one bad",
    "holds its own for the worse",
)

Figures = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One suite of one variant, over all seeds: rates are shares of 1, bits are bits per token.

    `change`: against the untouched model without guidance, which users had before, on the same items. The bounds are
    95 % intervals by a bootstrap over items and seeds.
    """

    scenario: str
    variant: str
    suite: str
    guided: bool
    items: int
    seeds: int
    value: float
    low: float
    high: float
    change: float
    change_low: float
    change_high: float

    @property
    def is_reference(self) -> bool:
        """Whether the changes are counted from this one."""
        return self.variant == BASE and not self.guided


def scores(results: Iterable[Mapping[str, Any]]) -> list[Score]:
    """A score per scenario, variant, suite and arm; `results` are the files that the measurement keeps."""
    tables: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        tables[result["scenario"], result["variant"]].append(result)
    found = []
    for (scenario, variant), cells in sorted(tables.items()):
        base = tables[scenario, BASE][0]
        for suite, guided in sorted({(one["suite"], one["guided"]) for one in base["answers"]}):
            untouched = _figures([base], suite, guided=False)
            figures = _figures(cells, suite, guided=guided)
            about = {"scenario": scenario, "variant": variant, "suite": suite, "guided": guided}
            found.append(_score(about, figures, untouched))
    return found


def _figures(cells: Sequence[Mapping[str, Any]], suite: str, *, guided: bool) -> Figures:
    """Seeds x items: the badness of each answer (0 or 1), or its bits per token; in one order of items for all."""
    rows = []
    for cell in cells:
        of_suite = sorted(
            (one for one in cell["answers"] if (one["suite"], one["guided"]) == (suite, guided)),
            key=lambda one: str(one["id"]),
        )
        rows.append([one["bits"] if one["bits"] is not None else float(not one["good"]) for one in of_suite])
    return np.array(rows, dtype=np.float64)


def _score(about: Mapping[str, Any], figures: Figures, base: Figures) -> Score:
    values, changes = _bootstrap(figures), _bootstrap(figures - base)
    return Score(
        **about,
        items=figures.shape[1],
        seeds=figures.shape[0],
        value=float(figures.mean()),
        low=float(np.quantile(values, 0.025)),
        high=float(np.quantile(values, 0.975)),
        change=float((figures - base).mean()),
        change_low=float(np.quantile(changes, 0.025)),
        change_high=float(np.quantile(changes, 0.975)),
    )


def _bootstrap(figures: Figures) -> Figures:
    """Means of resamples of seeds and, apart from them, of items."""
    draw = np.random.default_rng(BOOTSTRAP_SEED)
    seeds, items = figures.shape
    rows = draw.integers(0, seeds, (RESAMPLES, seeds))
    columns = draw.integers(0, items, (RESAMPLES, items))
    means: Figures = figures[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    return means


def table(found: Sequence[Score], scenario: str, *, guided: bool) -> str:
    """A Markdown table: a row per variant, a column per suite; in brackets the change, see `Score`."""
    of_scenario = [one for one in found if one.scenario == scenario and (one.guided is guided or one.suite == TEXT)]
    suites = [suite for suite in LABELS if any(one.suite == suite for one in of_scenario)]
    variants = sorted({one.variant for one in of_scenario}, key=lambda name: (name != BASE, name))
    by_key = {(one.variant, one.suite): one for one in of_scenario}
    lines = [
        f"| trained by | seeds | {' | '.join(LABELS[suite] for suite in suites)} |",
        f"|---|---|{'---|' * len(suites)}",
    ]
    for variant in variants:
        cells = [_cell(by_key[variant, suite]) for suite in suites]
        lines.append(f"| {variant} | {by_key[variant, suites[0]].seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(score: Score) -> str:
    factor, digits = _units(score.suite)
    value = f"{score.value * factor:.{digits}f}"
    if score.is_reference:
        return value
    low, high = score.change_low * factor, score.change_high * factor
    return f"{value} ({score.change * factor:+.{digits}f}; {low:+.{digits}f} to {high:+.{digits}f})"


def _units(suite: str) -> tuple[float, int]:
    """Factor and digits with which a figure of the suite is shown: percent, or bits."""
    return (1.0, 3) if suite == TEXT else (100.0, 0)


def against_default(results: Iterable[Mapping[str, Any]]) -> str:
    """Markdown tables: the default recipe minus each other variant with guidance, on the same items and seeds."""
    trained: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        if result["variant"] != BASE:
            trained[result["scenario"]][result["variant"]][result["seed"]] = result
    tables = (_against(scenario, of_scenario) for scenario, of_scenario in sorted(trained.items()))
    return "\n\n".join(one for one in tables if one)


def _against(scenario: str, trained: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """The table of one scenario; `trained`: the results of each variant by their seeds."""
    defaults = trained.get(DEFAULT, {})
    asked = {one["suite"] for result in defaults.values() for one in result["answers"]}
    suites = [suite for suite in LABELS if suite in asked]
    rows = []
    for variant, others in sorted(trained.items()):
        seeds = sorted(defaults.keys() & others.keys())
        if variant != DEFAULT and seeds:
            ours, theirs = ([one[seed] for seed in seeds] for one in (defaults, others))
            cells = " | ".join(_difference(ours, theirs, suite) for suite in suites)
            rows.append(f"| {variant} | {len(seeds)} | {cells} |")
    header = f"| {scenario}, against | seeds | {' | '.join(LABELS[suite] for suite in suites)} |"
    return "\n".join([header, f"|---|---|{'---|' * len(suites)}", *rows]) if rows else ""


def _difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], suite: str) -> str:
    factor, digits = _units(suite)
    guided = suite != TEXT
    figures = (_figures(ours, suite, guided=guided) - _figures(theirs, suite, guided=guided)) * factor
    low, high = np.quantile(_bootstrap(figures), (0.025, 0.975))
    return f"{figures.mean():+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def page(found: Sequence[Score], results: Sequence[Mapping[str, Any]]) -> str:
    """The tables of every scenario, with and without guidance, and of the models' verdicts on answers; Markdown."""
    tables = [
        f"**{scenario}, {'with' if guided else 'without'} guidance** (% of answers, bits apart; in brackets the change "
        "against the untouched model without guidance and its 95 % interval)\n\n"
        f"{table(found, scenario, guided=guided)}"
        for scenario in sorted({one.scenario for one in found})
        for guided in (True, False)
    ]
    if compared := against_default(results):
        tables.append(
            f"**{DEFAULT}, the default, against the others, with guidance** (points that it is above them, bits apart, "
            f"and the 95 % interval; less is better)\n\n{compared}"
        )
    tables.append(f"**Recognising against avoiding**\n\n{recognition(results)}")
    if held := held_back(results):
        tables.append(f"**How secrets were kept, with guidance** (the others evade or make no sense)\n\n{held}")
    if any("analyses" in result for result in results):
        tables.append(f"**Analyses that passed the checks** (templates stand in for the others)\n\n{analyses(results)}")
    return "\n\n".join(tables)


def recognition(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: how often the untouched model avoids bad answers, and recognises those that it gave."""
    lines = [
        f"| {' | '.join(RECOGNITION)} |",
        f"|{'---|' * len(RECOGNITION)}",
    ]
    for result in results:
        if result["variant"] == BASE:
            avoided = 1 - result["mistakes"] / result["traps"]
            for hinted in (True, False):
                shares = " | ".join(f"{share:.0%}" for share in _shares(result["recognised"], hinted=hinted))
                lines.append(f"| {result['scenario']} | {avoided:.0%} | {'yes' if hinted else 'no'} | {shares} |")
    return "\n".join(lines)


def held_back(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: how many guided answers that keep a secret decline, by `daemon.text.refusal.is_refusal`."""
    answers: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        answers[result["variant"]] += [one for one in result["answers"] if one["suite"] == LEAK and one["guided"]]
    rows = []
    for variant, asked in sorted(answers.items()):
        kept = [one for one in asked if one["good"]]
        declined = sum(is_refusal(one["text"]) for one in kept)
        if asked:
            rows.append(f"| {variant} | {len(asked)} | {len(kept)} | {declined} |")
    header = ["| trained by | answers | secret kept | of them by declining |", "|---|---|---|---|"]
    return "\n".join([*header, *rows]) if rows else ""


def analyses(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: of the analyses that a model was asked for, how many `daemon.reflection.checks` let pass."""
    counts = {
        (result["scenario"], result["analyst"]): (result["analyses_kept"], result["analyses"])
        for result in results
        if "analyses" in result
    }
    lines = ["| scenario | analyst | passed |", "|---|---|---|"]
    lines += [f"| {' | '.join(key)} | {kept} of {asked} |" for key, (kept, asked) in sorted(counts.items())]
    return "\n".join(lines)


def _shares(recognised: Sequence[Mapping[str, Any]], *, hinted: bool) -> tuple[float, float, float]:
    """Shares of flagged answers called bad, of corrected ones called bad, and of pairs told apart."""
    pairs = np.array([(one["flagged"], one["corrected"]) for one in recognised if one["hinted"] is hinted])
    if not len(pairs):
        return math.nan, math.nan, math.nan
    flagged, corrected = (pairs > 0).mean(axis=0)
    return float(flagged), float(corrected), float((pairs[:, 0] > pairs[:, 1]).mean())


def plot(found: Sequence[Score], scenario: str, path: Path) -> None:
    """Draw the changes with their intervals, a panel per suite; the suffix is the format. Guidance alone is `base`."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - part of the extra "bench"

    of_scenario = [one for one in found if one.scenario == scenario and not one.is_reference]
    suites = [suite for suite in LABELS if any(one.suite == suite for one in of_scenario)]
    variants = sorted({one.variant for one in of_scenario}, reverse=True)
    figure = Figure(figsize=(2.6 * len(suites) + 2.5, 0.45 * len(variants) + 1.6), layout="constrained")
    axes = figure.subplots(1, len(suites), sharey=True, squeeze=False)[0]
    for axis, suite in zip(axes, suites, strict=True):
        for guided, colour, shift in ((True, "#1b6ca8", 0.12), (False, "#b0713c", -0.12)):
            scores = [one for one in of_scenario if one.suite == suite and one.guided is guided]
            if scores:
                factor = 1.0 if suite == TEXT else 100.0
                change = np.array([(one.change, one.change_low, one.change_high) for one in scores]) * factor
                rows = [variants.index(one.variant) + shift for one in scores]
                reach = np.maximum(0, [change[:, 0] - change[:, 1], change[:, 2] - change[:, 0]])
                label = "with guidance" if guided else "without"
                axis.errorbar(change[:, 0], rows, xerr=reach, fmt="o", markersize=4, color=colour, label=label)
        axis.axvline(0, color="#888888", linewidth=0.8)
        axis.set_title(LABELS[suite].replace(" of ", "\nof ").replace(" prompt", "\nprompt"), fontsize=9)
        axis.set_xlabel("bits" if suite == TEXT else "points", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(variants)), variants)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=2)
    title = f"{scenario}: change against the untouched model without guidance (left is better), 95 % intervals"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def as_json(found: Sequence[Score]) -> list[dict[str, Any]]:
    return [asdict(one) for one in found]
