"""Writes the dashboards: `python deploy/grafana/dashboards.py [FOLDER]`. A test checks that the files are up to date.

The panels are in rows/. panels.py has a function for each kind of panel.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkType
from panels import SOURCE
from rows import (
    delivery,
    gate,
    generations,
    induction,
    intake,
    overview,
    reflection,
    reliability,
    schedule,
    training,
    vllm,
)

TAG = "erratad"
ANNOTATIONS = {
    "Promotions": ("green", "max(changes(erratad_last_promotion_timestamp_seconds[1m])) > 0"),
    "Rollbacks": ("red", 'sum(increase(erratad_swaps_total{kind="rollback",outcome="done"}[1m])) > 0'),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard; `rows`: title -> panels."""

    uid: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Any]]


BOARDS = (
    Board(
        uid="overview",
        title="erratad: overview",
        about="The loop from flagged to fixed.",
        rows={"Now": overview.NOW, "From flagged to fixed": overview.FUNNEL, "What runs": overview.RUNS},
    ),
    Board(
        uid="training",
        title="erratad: training and gate",
        about="The training runs, and the gate's verdicts with their reasons.",
        rows={"Schedule": schedule.PANELS, "Training": training.PANELS, "Gate": gate.PANELS},
    ),
    Board(
        uid="serving",
        title="erratad: serving and swap",
        about="The generations, their traffic and errors, and every swap.",
        rows={"Generations": generations.PANELS, "vLLM": vllm.PANELS},
    ),
    Board(
        uid="intake",
        title="erratad: intake and reliability",
        about="The incoming reports, their states, and the health of every part.",
        rows={
            "Intake": intake.PANELS,
            "Induced mistakes": induction.PANELS,
            "Reflection": reflection.PANELS,
            "Events to others": delivery.PANELS,
            "Reliability": reliability.PANELS,
        },
    ),
)


def built(board: Board) -> Dashboard:
    links = DashboardLink(TAG).type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(keep_time=True)
    dashboard = Dashboard(board.title).uid(f"erratad-{board.uid}").description(board.about).tags([TAG]).editable()
    dashboard.time("now-6h", "now").refresh("30s").timezone("browser").link(links)
    dashboard.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for name, (color, expr) in ANNOTATIONS.items():
        dashboard.annotation(
            AnnotationQuery().name(name).datasource(SOURCE).enable(enable=True).icon_color(color).expr(expr)
        )
    for row, panels in board.rows.items():
        dashboard.with_row(Row(row))
        for panel in panels:
            dashboard.with_panel(panel)
    return dashboard


def write(folder: Path) -> None:
    for board in BOARDS:
        dashboard = json.loads(JSONEncoder(sort_keys=True).encode(built(board).build()))
        for annotation in dashboard["annotations"]["list"]:
            # the SDK has no setter for these; without a title Grafana shows an empty box
            annotation |= {"titleFormat": annotation["name"].removesuffix("s"), "step": "60s"}
        (folder / f"{board.uid}.json").write_text(json.dumps(dashboard, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
