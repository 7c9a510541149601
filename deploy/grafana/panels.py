"""The kinds of panels that the dashboards are made of."""

from __future__ import annotations

import re
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
Query = tuple[str, str]
"""Expression and legend."""
METRIC = re.compile(
    r"""(?<![\w:"])((?:erratad_|vllm:|process_|release:|release_\w+:|instance:|DCGM_|ALERTS\b|up\b)[\w:]*)(?:\{([^}]*)\})?"""
)
CHOSEN = 'namespace=~"$namespace",release=~"$release",model=~"$model"'
"""Series of the release that the dashboard's variables choose."""


def chosen(expr: str) -> str:
    """The expression over the chosen release only."""
    return METRIC.sub(lambda found: f"{found[1]}{{{','.join(filter(None, (found[2], CHOSEN)))}}}", expr)


def increase(metric: str, by: str = "") -> str:
    """How much a counter grew in the time that the dashboard shows, per daemon's life; `by`: labels."""
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric}[$__range]))"


def _targets(panel: Any, queries: tuple[Query, ...], *, instant: bool, everywhere: bool = False) -> Any:
    for ref, (expr, legend) in zip("ABCDEFGH", queries, strict=False):
        query = (
            prometheus.Dataquery()
            .expr(expr if everywhere else chosen(expr))
            .legend_format(legend)
            .ref_id(ref)
            .datasource(SOURCE)
        )
        panel.with_target(query.instant() if instant else query.range())
    return panel.datasource(SOURCE)


def graph(
    title: str, *queries: Query, unit: str = "short", about: str = "", width: int = 12, stacked: bool = False
) -> Any:
    panel = timeseries.Panel().title(title).description(about).unit(unit).span(width).height(8).fill_opacity(10)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(models.LegendDisplayMode.LIST)
        .placement(models.LegendPlacement.BOTTOM)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))
    return _targets(panel, queries, instant=False)


def figure(
    title: str, *queries: Query, unit: str = "short", about: str = "", bad_from: float | None = None, width: int = 4
) -> Any:
    """One number now; red from `bad_from` on."""
    panel = stat.Panel().title(title).description(about).unit(unit).span(width).height(4)
    steps = [Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(Threshold(value=bad_from, color="red"))
    panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    named = any(legend for _, legend in queries)
    panel.text_mode(models.BigValueTextMode.VALUE_AND_NAME if named else models.BigValueTextMode.VALUE)
    return _targets(panel, queries, instant=True)


def bars(
    title: str, *queries: Query, unit: str = "short", about: str = "", width: int = 12, everywhere: bool = False
) -> Any:
    """Numbers now, one bar each; `everywhere`: of all releases."""
    panel = bargauge.Panel().title(title).description(about).unit(unit).min(0).span(width).height(8)
    if unit == "short":
        panel.decimals(0)  # an increase is extrapolated to the ends of its range
    panel.orientation(models.VizOrientation.HORIZONTAL).display_mode(models.BarGaugeDisplayMode.GRADIENT)
    return _targets(panel, queries, instant=True, everywhere=everywhere)


def timeline(title: str, *queries: Query, words: dict[str, tuple[str, str]], about: str = "", width: int = 12) -> Any:
    """States over time; `words`: value -> its text and its colour."""
    results = {value: ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()}
    panel = statetimeline.Panel().title(title).description(about).span(width).height(8)
    panel.show_value(models.VisibilityMode.NEVER).mappings([ValueMap(options=results)])
    return _targets(panel, queries, instant=False)


def quantiles(metric: str, by: str = "") -> list[Query]:
    rates = f"sum by ({by + ', ' if by else ''}le) (rate({metric}_bucket[$__rate_interval]))"
    legend = f"{{{{{by}}}}} " if by else ""
    return [(f"histogram_quantile({q}, {rates})", f"{legend}p{q * 100:.0f}") for q in (0.5, 0.95)]


def mean_seconds(metric: str, by: str = "") -> Query:
    """Over the time that the dashboard shows."""
    mean = f"{increase(f'{metric}_sum', by)} / ({increase(f'{metric}_count', by)} > 0)"
    return (mean, f"{{{{{by}}}}}" if by else "mean")


def age(metric: str) -> str:
    """Seconds since a timestamp; no value if it is 0 (never)."""
    return f"time() - (max({metric}) > 0)"
