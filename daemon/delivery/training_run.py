"""What MLflow is told of a training: ids, settings and figures. No text of a report is among them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from connectors.mlflow import Point, TrainingRun
from daemon.artifacts.adapter import Lineage, Manifest, read_manifest
from daemon.artifacts.run_folder import JOB_FILE
from daemon.errors import AdapterInvalidError
from daemon.records import Adapter, Run, Verdict

PROGRESS_FIGURES = ("train_seconds", "tokens_per_s", "skipped_examples")
LINEAGE_FIGURES = ("steps", "hindsight_advantage", "kl_to_base", "entropy", "base_entropy")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_WITH_NAMES_OF_SENDERS = frozenset({"largest"})
"""Figures by principal."""


def training_run(run: Run, adapter: Adapter, verdict: Verdict | None, *, alias: str) -> TrainingRun:
    """The run as it is now. Files that were removed meanwhile leave their figures out."""
    manifest = manifest_of(adapter)
    lineage = None if manifest is None else manifest.lineage
    return TrainingRun(
        key=f"{alias}/{run.id}@{run.created_at:%Y%m%dT%H%M%S}",  # two databases may have a run of the same number
        name=adapter.name,
        started_at=run.created_at,
        ended_at=run.finished_at,
        note="" if verdict is None else "\n".join(verdict.reasons),
        params=_params(run, manifest),
        points=[*_losses(run), *_training_points(run, lineage), *_gate_points(verdict)],
        tags=_tags(run, adapter, manifest, verdict),
        dataset_sha256=None if lineage is None else lineage.dataset_sha256,
    )


def manifest_of(adapter: Adapter) -> Manifest | None:
    """None if the adapter's folder is gone."""
    if adapter.path is None or adapter.files_removed_at is not None:
        return None
    try:
        return read_manifest(Path(adapter.path))
    except AdapterInvalidError:
        return None


def _params(run: Run, manifest: Manifest | None) -> dict[str, str]:
    params = {
        "recipe": run.recipe,
        "seed": str(run.seed),
        "trigger": run.trigger.value,
        "live_generation": str(run.base_generation),
        **{f"training.{name}": value for name, value in _leaves(_training_section(run))},
    }
    if manifest is None:
        return params
    lineage = manifest.lineage
    return {
        **params,
        "base_fingerprint": manifest.base_fingerprint,
        "modules": ",".join(manifest.target_modules),
        "reports": str(len(lineage.report_ids)),
        **{f"recipe.{kind}": recipe for kind, recipe in lineage.recipes.items() if _NAME.fullmatch(kind)},
        **{f"examples.{kind}": str(count) for kind, count in lineage.examples.items() if _NAME.fullmatch(kind)},
    }


def _training_section(run: Run) -> Mapping[str, Any]:
    """The section `training` with which the run was trained; empty if its folder is gone."""
    try:
        found = json.loads((Path(run.folder) / JOB_FILE).read_bytes())["training"]
    except (OSError, ValueError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield above + name, value if isinstance(value, str) else json.dumps(value)


def _losses(run: Run) -> list[Point]:
    """The time is the run's start: no step has one of its own."""
    points = run.progress.get("losses", ())
    return [Point(name="loss", value=loss, at=run.created_at, step=int(step)) for step, loss in points]


def _training_points(run: Run, lineage: Lineage | None) -> list[Point]:
    found = {name: run.progress.get(name) for name in PROGRESS_FIGURES}
    if lineage is not None:
        found |= {name: getattr(lineage, name) for name in LINEAGE_FIGURES}
    return [Point(name=f"training.{name}", value=value, at=run.created_at) for name, value in _figures(found)]


def _gate_points(verdict: Verdict | None) -> list[Point]:
    if verdict is None:
        return []
    return [Point(name=f"gate.{name}", value=value, at=verdict.decided_at) for name, value in _figures(verdict.figures)]


def _figures(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """The numbers, by flat names; yes and no are 1 and 0. Lists (they hold ids) and texts are left out."""
    for name, value in found.items():
        if name in _WITH_NAMES_OF_SENDERS or not _NAME.fullmatch(name):
            continue
        if isinstance(value, Mapping):
            yield from _figures(value, f"{above}{name}.")
        elif isinstance(value, int | float):
            yield above + name, float(value)


def _tags(run: Run, adapter: Adapter, manifest: Manifest | None, verdict: Verdict | None) -> dict[str, str]:
    accepted = None if verdict is None else ("accepted" if verdict.accepted else "rejected")
    dataset = None if manifest is None else manifest.lineage.dataset_sha256
    tags = {
        "erratad.generation": str(adapter.generation),
        "erratad.adapter": adapter.name,
        "erratad.state": adapter.state.value,
        "erratad.run_id": str(run.id),
        "erratad.run_state": run.state.value,
        "erratad.verdict": accepted,
        "erratad.weights_sha256": adapter.sha256,
        "erratad.dataset_sha256": dataset,
    }
    return {name: value for name, value in tags.items() if value is not None}
