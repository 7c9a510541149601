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
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, VariableRefresh
from panels import SOURCE, chosen
from rows import (
    delivery,
    gate,
    generations,
    gpu,
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
VARIABLES = {
    "namespace": 'label_values(up{job="erratad"}, namespace)',
    "release": 'label_values(up{job="erratad",namespace=~"$namespace"}, release)',
    "model": 'label_values(up{job="erratad",namespace=~"$namespace",release=~"$release"}, model)',
}
"""They choose the release that a dashboard shows. Without Kubernetes there is no namespace: all."""
INTERVAL_ONLY = ("auto", "auto_count", "auto_min")
"""Keys that the SDK writes into every variable; Grafana's schema has them in those of type `interval` alone."""
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
        rows={
            "All releases": overview.RELEASES,
            "Now": overview.NOW,
            "From flagged to fixed": overview.FUNNEL,
            "What runs": overview.RUNS,
        },
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
        rows={
            "Generations": generations.PANELS,
            "Canary": generations.CANARY,
            "vLLM": vllm.PANELS,
            "GPU": gpu.PANELS,
        },
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
    links.include_vars(include_vars=True)
    dashboard = Dashboard(board.title).uid(f"erratad-{board.uid}").description(board.about).tags([TAG]).editable()
    dashboard.time("now-6h", "now").refresh("30s").timezone("browser").link(links)
    dashboard.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for name, query in VARIABLES.items():
        variable = QueryVariable(name).label(name.capitalize()).datasource(SOURCE).query(query)
        variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        if name != "release":  # figures of several releases in one panel would be mixed up
            variable.include_all(include_all=True).all_value(".*").multi(multi=True)
        dashboard.with_variable(variable)
    for name, (color, expr) in ANNOTATIONS.items():
        annotation = AnnotationQuery().name(name).datasource(SOURCE).enable(enable=True)
        dashboard.annotation(annotation.icon_color(color).expr(chosen(expr)))
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
        for variable in dashboard["templating"]["list"]:
            for name in INTERVAL_ONLY:
                variable.pop(name, None)
        (folder / f"{board.uid}.json").write_text(json.dumps(dashboard, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
