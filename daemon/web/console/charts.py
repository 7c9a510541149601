"""The geometry of the console's plots in SVG units. Pure functions; the templates only place the points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from daemon.operations.shown import MeasuredView
from daemon.records import BASE_GENERATION, Adapter, AdapterState, ReportState, Run
from daemon.retest import OUTCOMES

LEARNED = (ReportState.LESSON, *OUTCOMES)
PUT_ASIDE = (ReportState.DUPLICATE, ReportState.QUARANTINED, ReportState.BURIED, ReportState.ERASED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of the funnel. `share` is its part of all reports, from 0 to 1."""

    label: str
    count: int
    share: float
    note: str

    @property
    def percent(self) -> str:
        """The share for people: no small part is shown as zero."""
        percent = 100 * self.share
        if 0 < percent < 0.1:
            return "< 0.1 %"
        return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.0f} %"


def funnel(counts: dict[ReportState, int]) -> list[Bar]:
    """The funnel from flagged to fixed. Each bar includes the bars below it."""
    flagged = sum(counts.values())
    aside = sum(counts[state] for state in PUT_ASIDE)
    learned = sum(counts[state] for state in LEARNED)
    fixed, retested = counts[ReportState.RESOLVED], sum(counts[state] for state in OUTCOMES)
    recurring, unmade = counts[ReportState.RECURRING] + counts[ReportState.IMPROVED], counts[ReportState.NOT_REPRODUCED]
    steps = (
        ("Flagged", flagged, "all reports that came in"),
        ("Accepted", flagged - aside, f"{aside:,} put aside as duplicate, quarantined, buried or erased"),
        ("Analysed", learned, f"{flagged - aside - learned:,} waiting for analysis"),
        ("Re-tested", retested, f"{unmade:,} not reproduced: live made no mistake"),
        ("Fixed", fixed, f"{recurring:,} still failing"),
    )
    return [
        Bar(label=label, count=count, share=count / flagged if flagged else 0.0, note=note)
        for label, count, note in steps
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePlot:
    """A line plot of `width` x `height`, with axes at the left and at the bottom."""

    width: int
    height: int
    points: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    last: float
    lowest: float


PLOT_WIDTH, PLOT_HEIGHT = 640, 220
PLOT_LEFT, PLOT_BOTTOM, PLOT_PAD = 48, 28, 10


def loss_plot(points: Sequence[Sequence[float]]) -> LinePlot | None:
    """The training loss by step. None if there are fewer than two finite points."""
    finite = [(float(point[0]), float(point[1])) for point in points if math.isfinite(point[1])]
    if len(finite) < 2:
        return None
    steps, losses = [x for x, _ in finite], [y for _, y in finite]
    bottom, top = _round_down(min(losses)), _round_up(max(losses))

    def x_of(step: float) -> float:
        span = (steps[-1] - steps[0]) or 1.0
        return round(PLOT_LEFT + (step - steps[0]) / span * (PLOT_WIDTH - PLOT_LEFT - PLOT_PAD), 1)

    def y_of(loss: float) -> float:
        room = PLOT_HEIGHT - PLOT_BOTTOM - PLOT_PAD
        return round(PLOT_PAD + (top - loss) / (top - bottom) * room, 1)

    return LinePlot(
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
        points=" ".join(f"{x_of(step)},{y_of(loss)}" for step, loss in finite),
        x_ticks=tuple(Tick(at=x_of(step), label=f"{step:.0f}") for step in _spread(steps[0], steps[-1], 5)),
        y_ticks=tuple(Tick(at=y_of(loss), label=f"{loss:.3g}") for loss in _spread(bottom, top, 4)),
        first=losses[0],
        last=losses[-1],
        lowest=min(losses),
    )


def _round_down(value: float) -> float:
    return math.floor(value * 5) / 5


def _round_up(value: float) -> float:
    rounded = math.ceil(value * 5) / 5
    return rounded if rounded > _round_down(value) else rounded + 0.2


def _spread(low: float, high: float, count: int) -> list[float]:
    return [low + (high - low) * index / (count - 1) for index in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The change of one item's margin, as a bar from the zero line."""

    item_id: str
    gain: float
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlot:
    width: int
    height: int
    zero: float
    largest: float
    changes: tuple[Change, ...]
    risen: int
    fallen: int


CHANGE_HEIGHT = 160


def margin_plot(measured: Iterable[MeasuredView]) -> ChangePlot | None:
    """The change of each report's margin (guided answers), largest gain first. None if there are no margins."""
    gains = sorted(
        (
            (item.after.margin - item.before.margin, item.item_id)
            for item in measured
            if item.guided and item.before is not None and item.after is not None
            if item.before.margin is not None and item.after.margin is not None
            if math.isfinite(item.before.margin) and math.isfinite(item.after.margin)
        ),
        key=lambda pair: -pair[0],
    )
    if not gains:
        return None
    largest = max(abs(gain) for gain, _ in gains) or 1.0
    zero, room, step = CHANGE_HEIGHT / 2, CHANGE_HEIGHT / 2 - 6, (PLOT_WIDTH - PLOT_LEFT) / len(gains)
    width = min(step * 0.8, 36.0)
    changes = tuple(
        Change(
            item_id=item_id,
            gain=gain,
            x=round(PLOT_LEFT + index * min(step, 45.0), 1),
            y=round(zero - max(gain, 0.0) / largest * room, 1),
            width=round(width, 1),
            height=round(max(abs(gain) / largest * room, 1.0), 1),
        )
        for index, (gain, item_id) in enumerate(gains)
    )
    return ChangePlot(
        width=PLOT_WIDTH,
        height=CHANGE_HEIGHT,
        zero=zero,
        largest=largest,
        changes=changes,
        risen=sum(gain > 0 for gain, _ in gains),
        fallen=sum(gain < 0 for gain, _ in gains),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    generation: int
    label: str
    state: AdapterState
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    path: str
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LineagePlot:
    """Generations from left to right. Generations that went live are on the upper line, the others below."""

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


WAS_LIVE = (AdapterState.LIVE, AdapterState.RETIRED, AdapterState.ROLLED_BACK)
NODE_STEP, NODE_LEFT, UPPER, LOWER, LINEAGE_HEIGHT = 96, 48, 40, 112, 160


def lineage(adapters: Sequence[Adapter], runs: Sequence[Run]) -> LineagePlot:
    """An edge leads from the generation that was live when a run began to the generation of that run."""
    ordered = sorted(adapters, key=lambda adapter: adapter.generation)
    nodes = {
        adapter.generation: Node(
            generation=adapter.generation,
            label="base" if adapter.generation == BASE_GENERATION else f"g{adapter.generation}",
            state=adapter.state,
            x=NODE_LEFT + index * NODE_STEP,
            y=UPPER if adapter.state in WAS_LIVE else LOWER,
        )
        for index, adapter in enumerate(ordered)
    }
    edges = tuple(
        Edge(path=_curve(nodes[run.base_generation], nodes[run.generation]), live=nodes[run.generation].y == UPPER)
        for run in reversed(runs)
        if run.base_generation in nodes and run.generation in nodes
    )
    width = NODE_LEFT * 2 + NODE_STEP * max(len(ordered) - 1, 0)
    return LineagePlot(width=width, height=LINEAGE_HEIGHT, nodes=tuple(nodes.values()), edges=edges)


def _curve(old: Node, new: Node) -> str:
    """A straight line to a neighbour, else an arc below the nodes between, so that no edge crosses a node."""
    if old.y == new.y and new.x - old.x > NODE_STEP:
        dip = old.y + 46
        return f"M{old.x},{old.y} C{old.x + 40},{dip} {new.x - 40},{dip} {new.x},{new.y}"
    middle = (old.x + new.x) / 2
    return f"M{old.x},{old.y} C{middle},{old.y} {middle},{new.y} {new.x},{new.y}"
