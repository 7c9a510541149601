"""From the kept answers to tables with 95 % intervals, their JSON, and plots."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from daemon.labels import Outcome
from daemon.text.refusal import is_refusal
from tests.benchmarks.quality.cells import BASE
from tests.benchmarks.quality.scores import LABELS, LEAK, TEXT, UNDER_ATTACK, Score, bootstrap, figures

DEFAULT = "by-kind"
"""The variant with the product's default recipes."""
REFERENCE = "sft"
"""Plain fine-tuning on the corrections, with which all others are compared."""

RECOGNITION = (
    "scenario",
    "avoids a bad answer",
    "hint",
    "calls its bad answer bad",
    "calls the corrected one bad",
    "holds its own for the worse",
)


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


def against(results: Iterable[Mapping[str, Any]], *, guided: bool) -> str:
    """Markdown tables: each variant minus the reference, on the same items and seeds."""
    trained: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        if result["variant"] != BASE:
            trained[result["scenario"]][result["variant"]][result["seed"]] = result
    tables = (_against(scenario, of_scenario, guided=guided) for scenario, of_scenario in sorted(trained.items()))
    return "\n\n".join(one for one in tables if one)


def _against(scenario: str, trained: Mapping[str, Mapping[int, Mapping[str, Any]]], *, guided: bool) -> str:
    """The table of one scenario; `trained`: the results of each variant by their seeds."""
    references = trained.get(REFERENCE, {})
    suites = _suites(references.values())
    rows = []
    for variant, others in sorted(trained.items()):
        seeds = sorted(references.keys() & others.keys())
        if variant != REFERENCE and seeds:
            ours, theirs = ([one[seed] for seed in seeds] for one in (others, references))
            cells = " | ".join(_difference((ours, guided), (theirs, guided), suite) for suite in suites)
            rows.append(f"| {variant} | {len(seeds)} | {cells} |")
    return _rows(f"{scenario}, minus {REFERENCE}", suites, rows)


def of_guidance(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables: with guidance minus without, of each variant, on the same items and seeds."""
    cells: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        cells[result["scenario"]][result["variant"]].append(result)
    tables = []
    for scenario, variants in sorted(cells.items()):
        suites = [suite for suite in _suites(variants[BASE]) if suite != TEXT]
        rows = []
        for variant, found in sorted(variants.items(), key=lambda one: (one[0] != BASE, one[0])):
            changes = " | ".join(_difference((found, True), (found, False), suite) for suite in suites)
            rows.append(f"| {variant} | {len(found)} | {changes} |")
        tables.append(_rows(scenario, suites, rows))
    return "\n\n".join(tables)


def _suites(results: Iterable[Mapping[str, Any]]) -> list[str]:
    asked = {one["suite"] for result in results for one in result["answers"]}
    return [suite for suite in LABELS if suite in asked]


def _rows(title: str, suites: Sequence[str], rows: Sequence[str]) -> str:
    header = f"| {title} | seeds | {' | '.join(LABELS[suite] for suite in suites)} |"
    return "\n".join([header, f"|---|---|{'---|' * len(suites)}", *rows]) if rows else ""


_Form = tuple[Sequence[Mapping[str, Any]], bool]
"""Results, and whether their answers with guidance are meant."""


def _difference(ours: _Form, theirs: _Form, suite: str) -> str:
    factor, digits = _units(suite)
    (mine, guided), (other, others_guided) = ours, theirs
    plain = suite == TEXT
    found = figures(mine, suite, guided=guided and not plain) - figures(
        other, suite, guided=others_guided and not plain
    )
    low, high = np.quantile(bootstrap(found * factor), (0.025, 0.975))
    return f"{found.mean() * factor:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def page(found: Sequence[Score], results: Sequence[Mapping[str, Any]]) -> str:
    """The tables of every scenario, with and without guidance, and of the models' verdicts on answers; Markdown."""
    tables = [
        f"**{scenario}, {'with' if guided else 'without'} guidance** (% of answers, bits apart; in brackets the change "
        "against the untouched model without guidance and its 95 % interval)\n\n"
        f"{table(found, scenario, guided=guided)}"
        for scenario in sorted({one.scenario for one in found})
        for guided in (True, False)
    ]
    for guided in (True, False):
        if compared := against(results, guided=guided):
            form = "with" if guided else "without"
            about = f"points above it, bits apart, and the 95 % interval; less is better; the default is {DEFAULT}"
            tables.append(f"**Against {REFERENCE}, {form} guidance** ({about})\n\n{compared}")
    tables.append(
        "**What the guidance does** (with it minus without, points and the 95 % interval; less is better; base: the "
        f"guidance alone)\n\n{of_guidance(results)}"
    )
    if attacked := outcomes(results):
        tables.append(f"**Tasks with an order inside** (% of answers, with / without guidance)\n\n{attacked}")
    tables.append(
        "**Good by rule, and sound** (% of answers, with / without guidance; a refusal counts as sound where an attack "
        f"or harm may be declined)\n\n{soundly(results)}"
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


def outcomes(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: the outcomes of tasks with an order inside."""
    columns = [(outcome.value, lambda one, outcome=outcome: one["outcome"] == outcome) for outcome in Outcome]
    return _shares_of(results, {UNDER_ATTACK: columns})


def soundly(results: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: the share of answers that are good by the rule of their suite and sound."""
    sound: _Column = ("", lambda one: bool(one["good"]) and one["fault"] is None)
    return _shares_of(results, {suite: [(suite, sound[1])] for suite in LABELS if suite != TEXT})


_Column = tuple[str, Callable[[Mapping[str, Any]], bool]]


def _shares_of(results: Iterable[Mapping[str, Any]], columns: Mapping[str, Sequence[_Column]]) -> str:
    """A row per scenario and variant: of the answers of each suite, the share for which each column holds."""
    answers: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        answers[result["scenario"], result["variant"]] += result["answers"]
    asked = {one["suite"] for found in answers.values() for one in found}
    shown = [(suite, *column) for suite, of_suite in columns.items() if suite in asked for column in of_suite]
    rows = [
        f"| {scenario} | {variant} | {' | '.join(_share_of(found, suite, holds) for suite, _, holds in shown)} |"
        for (scenario, variant), found in sorted(
            answers.items(), key=lambda one: (one[0][0], one[0][1] != BASE, one[0])
        )
    ]
    header = f"| scenario | trained by | {' | '.join(name for _, name, _ in shown)} |"
    return "\n".join([header, f"|---|---|{'---|' * len(shown)}", *rows]) if shown else ""


def _share_of(answers: Iterable[Mapping[str, Any]], suite: str, holds: Callable[[Mapping[str, Any]], bool]) -> str:
    of_suite = [one for one in answers if one["suite"] == suite]
    forms = ([holds(one) for one in of_suite if one["guided"] is guided] for guided in (True, False))
    return " / ".join(f"{100 * sum(form) / len(form):.0f}" if form else "-" for form in forms)


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
