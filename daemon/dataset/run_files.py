"""The files of a run folder: examples, held-out reports, and the manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from daemon.artifacts.examples import to_jsonl
from daemon.artifacts.run_folder import (
    DRIFT_FILE,
    HOLDOUT_FILE,
    MANIFEST_FILE,
    REPLAY_FILE,
    TRAIN_FILE,
    DatasetFile,
    DatasetItem,
    DatasetManifest,
)
from daemon.dataset.golden import GoldenPairs
from daemon.dataset.replay import Pairs
from daemon.dataset.selection import SelectedLesson, Selection
from daemon.dataset.teaching import Teaching
from daemon.records import Run, conversation
from daemon.text.merging import merged


def render(
    run: Run,
    selection: Selection,
    pairs: Pairs,
    fingerprint: str,
    *,
    replay_per_epoch: int,
    golden: GoldenPairs,
    teaching: Teaching,
) -> dict[str, bytes]:
    """Contents of all files of the run folder; the manifest is last."""
    contents = {
        TRAIN_FILE: to_jsonl(selection.examples),
        HOLDOUT_FILE: b"".join(_holdout_line(chosen) for chosen in selection.holdout),
        REPLAY_FILE: to_jsonl([*pairs.replay, *golden.pairs]),
        DRIFT_FILE: to_jsonl(pairs.drift),
    }
    sources = {TRAIN_FILE: selection.train, HOLDOUT_FILE: selection.holdout}
    manifest = DatasetManifest(
        run_id=run.id,
        run_created_at=run.created_at,
        generation=run.generation,
        recipe=run.recipe,
        recipes=teaching.by_kind,
        flips=teaching.flips(),
        seed=run.seed,
        base_fingerprint=fingerprint,
        files={
            name: DatasetFile(
                sha256=hashlib.sha256(content).hexdigest(),
                lines=content.count(b"\n"),
                report_ids=tuple(sorted(chosen.report.id for chosen in sources.get(name, ()))),
            )
            for name, content in contents.items()
        },
        items=tuple(
            DatasetItem(report_id=chosen.report.id, cluster_id=chosen.cluster.id, role=chosen.cluster.split)
            for chosen in (*selection.train, *selection.holdout)
        ),
        replay_per_epoch=replay_per_epoch,
        examples=Counter(
            example.kind.value for example in (*selection.examples, *pairs.replay, *golden.pairs, *pairs.drift)
        ),
        left_out=selection.left_out,
        left_out_texts={**selection.dropped, **pairs.left_out, **golden.by_kind},
        unusable=selection.unusable,
    )
    return {**contents, MANIFEST_FILE: manifest.encode()}


def _holdout_line(chosen: SelectedLesson) -> bytes:
    """One line of the holdout file: a copy of the report and correction at the start of the run."""
    said = merged(chosen.report)
    flagged = said.flagged
    values = {
        "id": chosen.report.id,
        "cluster_id": chosen.cluster.id,
        "category": flagged.category,
        "messages": conversation(chosen.report),
        "response": flagged.response,
        "correction": chosen.lesson.correction,
        "checks": [one.model_dump(mode="json", exclude_none=True) for one in said.checks],
    }
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
