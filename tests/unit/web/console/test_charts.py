"""The console's plots: every point lies in its box and shows its figure."""

from __future__ import annotations

import itertools
import math

from daemon.operations.shown import AnswerView, MeasuredView
from daemon.records import ReportState
from daemon.store import Store
from daemon.training.job import MAX_POINTS, LossCurve, TrainingProgress
from daemon.web.console.charts import CHANGE_HEIGHT, UPPER, Bar, funnel, lineage, loss_plot, margin_plot


def measured(item_id: str, before: float | None, after: float | None, *, guided: bool = True) -> MeasuredView:
    def answer(margin: float | None) -> AnswerView:
        return AnswerView(arm="x", text="x", passed=None, margin=margin, bits_per_token=None)

    return MeasuredView(
        run_id=1,
        generation=1,
        suite="flagged",
        item_id=item_id,
        guided=guided,
        before=answer(before),
        after=answer(after),
        samples=[],
    )


def test_each_step_of_the_funnel_holds_the_next() -> None:
    counts = dict.fromkeys(ReportState, 0) | {
        ReportState.QUEUED: 5,
        ReportState.LESSON: 4,
        ReportState.RECURRING: 3,
        ReportState.RESOLVED: 2,
        ReportState.IMPROVED: 1,
        ReportState.NOT_REPRODUCED: 1,
        ReportState.BURIED: 6,
    }
    bars = funnel(counts)
    assert [(bar.label, bar.count) for bar in bars] == [
        ("Flagged", 22), ("Accepted", 16), ("Analysed", 11), ("Re-tested", 7), ("Fixed", 2),
    ]  # fmt: skip
    assert bars[-1].share == 2 / 22
    assert bars[-1].note == "4 still failing"


def test_a_small_share_is_not_shown_as_zero() -> None:
    shares = {0.0: "0 %", 0.00012: "< 0.1 %", 0.0342: "3.4 %", 0.56: "56 %", 1.0: "100 %"}
    assert {share: Bar(label="x", count=1, share=share, note="").percent for share in shares} == shares


def test_an_empty_funnel_is_drawn_too() -> None:
    assert [bar.share for bar in funnel(dict.fromkeys(ReportState, 0))] == [0.0] * 5


def test_the_loss_falls_from_left_to_right_inside_its_box() -> None:
    plot = loss_plot([[step, 2.5 / step] for step in range(1, 50)])
    assert plot is not None
    points = [tuple(float(part) for part in point.split(",")) for point in plot.points.split()]
    assert all(x < next_x and y <= next_y for (x, y), (next_x, next_y) in itertools.pairwise(points))
    assert all(48 <= x <= plot.width and 0 <= y <= plot.height - 28 for x, y in points)
    assert (plot.first, plot.lowest) == (2.5, plot.last)


def test_a_loss_that_is_flat_or_not_a_number_is_drawn_where_it_can_be() -> None:
    assert loss_plot([]) is None
    assert loss_plot([[1, 0.5], [2, math.nan]]) is None
    flat = loss_plot([[1, 0.4], [2, 0.4]])
    assert flat is not None
    assert "nan" not in flat.points


def test_a_loss_curve_stays_small_and_keeps_both_ends() -> None:
    curve = LossCurve()
    for step in range(1, 2001):
        curve.add(TrainingProgress(step=step, steps=2000, loss=1.0 / step))
    assert MAX_POINTS / 2 <= len(curve.points) <= MAX_POINTS
    assert (curve.points[0][0], curve.points[-1][0]) == (1, 2000)


def test_steps_made_again_replace_the_earlier_ones() -> None:
    curve = LossCurve([[1, 3.0], [2, 2.0], [3, 1.5]])
    curve.add(TrainingProgress(step=2, loss=2.1))
    curve.add(TrainingProgress(step=0, loss=None))
    assert curve.points == [[1, 3.0], [2, 2.1]]


def test_margins_rise_above_the_line_and_fall_below_it() -> None:
    items = [
        measured("up", -1.0, 1.0),
        measured("down", 0.5, 0.0),
        measured("unguided", 0.0, 9.0, guided=False),
        measured("unknown", None, 1.0),
        measured("broken", 0.0, math.inf),
    ]
    plot = margin_plot(items)
    assert plot is not None
    assert [(one.item_id, one.gain) for one in plot.changes] == [("up", 2.0), ("down", -0.5)]
    up, down = plot.changes
    assert up.y + up.height == plot.zero == down.y
    assert up.y >= 0
    assert down.y + down.height <= CHANGE_HEIGHT
    assert (plot.risen, plot.fallen) == (1, 1)
    assert margin_plot(items[2:]) is None


def test_hundreds_of_margins_fit_the_plot() -> None:
    plot = margin_plot([measured(str(number), 0.0, 1.0 - number / 150) for number in range(300)])
    assert plot is not None
    assert all(one.x + one.width <= plot.width for one in plot.changes)


def test_the_lineage_draws_every_generation_once_and_its_ancestor(history: Store) -> None:
    adapters = history.adapters.find()
    drawn = lineage(adapters, history.runs.find())
    assert [node.label for node in drawn.nodes] == ["base", "g1", "g2", "g3", "g4"]
    assert [node.y == UPPER for node in drawn.nodes] == [True, True, False, True, False]
    assert len(drawn.edges) == 4
    assert all(0 < node.x < drawn.width for node in drawn.nodes)


def test_an_ancestor_that_is_no_longer_listed_draws_no_line(history: Store) -> None:
    adapters = history.adapters.find(limit=2)
    drawn = lineage(adapters, history.runs.find())
    assert len(drawn.nodes) == 2
    assert len(drawn.edges) == 1
