"""Selects the lessons of a run for training and holdout: within the caps, without near-duplicates or leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix, vstack

from daemon.artifacts.examples import Example
from daemon.artifacts.run_folder import UnusableReport
from daemon.categories import Kind, kind_of
from daemon.chat.readings import Refusal
from daemon.config.dataset import DatasetConfig
from daemon.dataset.recipes import Recipe, recipe, without_repeats
from daemon.dataset.usable import Usable
from daemon.labels import LeftOut
from daemon.records import Cluster, Lesson, Report, Split
from daemon.text.merging import taught_by
from daemon.text.similarity import Vectorizer, Words, cosines, reaches, resembling


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedLesson:
    """A lesson used by the run, with its cluster and its examples (none on the holdout side)."""

    report: Report
    lesson: Lesson
    cluster: Cluster
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """What can be used of one lesson: its examples, or the reason why it has none."""

    examples: tuple[Example, ...] = ()
    dropped: tuple[tuple[Example, Refusal], ...] = ()
    refusal: Refusal | None = None
    """Why the whole lesson cannot be used."""
    held_out: bool = False

    @property
    def why_not(self) -> LeftOut | None:
        if self.refusal is not None:
            return self.refusal.reason
        return None if self.examples or self.held_out else LeftOut.NO_EXAMPLE

    @classmethod
    def of(cls, report: Report, lesson: Lesson, render: Recipe, usable: Usable) -> Self:
        """The training side: a lesson keeps its usable examples."""
        refusals = [(example, usable.why_not_example(example)) for example in render(report, lesson)]
        kept = tuple(example for example, refusal in refusals if refusal is None)
        dropped = tuple((example, refusal) for example, refusal in refusals if refusal is not None)
        return cls(examples=kept, dropped=dropped, refusal=dropped[0][1] if dropped and not kept else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    train: tuple[SelectedLesson, ...]
    holdout: tuple[SelectedLesson, ...]
    left_out: Mapping[LeftOut, int]
    unusable: tuple[UnusableReport, ...] = ()
    dropped: Mapping[str, Mapping[LeftOut, int]] = field(default_factory=dict)
    """Examples left out of lessons that have others, by kind and reason."""

    @property
    def examples(self) -> list[Example]:
        return without_repeats([example for chosen in self.train for example in chosen.examples])


def select(
    candidates: Sequence[tuple[Report, Lesson]],
    assigned: Mapping[str, Cluster],
    *,
    config: DatasetConfig,
    recipe_name: str,
    vectorizer: Vectorizer,
    usable: Usable,
) -> Selection:
    """Select lessons within the caps, in the order of the candidates, and render the training side.

    Near-duplicates are dropped on the training side only. On the holdout side each one is a real question of a user.
    Examples, and held-out prompts, that are known to be unusable are left out; others take their places.

    Raises:
        ConfigError: if there is no such recipe.
    """
    render = recipe(recipe_name)
    left_out: Counter[LeftOut] = Counter()
    unusable: list[UnusableReport] = []
    dropped: dict[str, Counter[LeftOut]] = defaultdict(Counter)
    caps = _Caps(config)
    kept = _Kept(config.near_duplicate)
    sides: dict[Split, list[SelectedLesson]] = {Split.TRAIN: [], Split.HOLDOUT: []}
    for report, lesson in candidates:
        cluster, reporter = assigned[report.id], taught_by(report, lesson)
        trains = cluster.split is Split.TRAIN
        one = (
            _Rendered.of(report, lesson, render, usable)
            if trains
            else _Rendered(refusal=usable.why_not_held_out(report), held_out=True)
        )
        if one.refusal is not None:
            unusable.append(UnusableReport(report_id=report.id, reason=one.refusal.reason, detail=one.refusal.detail))
        if (why_not := one.why_not or caps.reached(reporter, cluster)) is not None:
            left_out[why_not] += 1
        elif trains and kept.has_similar(report):
            left_out[LeftOut.NEAR_DUPLICATE] += 1
        else:
            caps.count(reporter, cluster)
            if trains:
                kept.add(report)
            for example, refusal in one.dropped:
                dropped[example.kind.value][refusal.reason] += 1
            sides[cluster.split].append(
                SelectedLesson(report=report, lesson=lesson, cluster=cluster, examples=one.examples)
            )
    holdout = _without_leaks(
        sides[Split.HOLDOUT], sides[Split.TRAIN], vectorizer=vectorizer, similarity=config.same_kind
    )
    if len(holdout) < len(sides[Split.HOLDOUT]):
        left_out[LeftOut.TRAINED_ALIKE] = len(sides[Split.HOLDOUT]) - len(holdout)
    return Selection(
        train=tuple(sides[Split.TRAIN]),
        holdout=holdout,
        left_out=dict(left_out),
        unusable=tuple(unusable),
        dropped=dropped,
    )


def _without_leaks(
    holdout: Sequence[SelectedLesson], train: Sequence[SelectedLesson], *, vectorizer: Vectorizer, similarity: float
) -> tuple[SelectedLesson, ...]:
    """The held-out lessons whose prompt is not similar to a training prompt.

    Clusters do not exclude this: they limit only the distance to a leader. A similar training prompt would leak the
    answer to the held-out one. It is the held-out lesson that gives way: otherwise a few reports about each topic, some
    of them held out, would keep a topic out of training for good.
    """
    leaks = resembling(
        [selected.report.prompt_text for selected in holdout],
        [selected.report.prompt_text for selected in train],
        vectorizer=vectorizer,
        similarity=similarity,
    )
    return tuple(selected for selected, leak in zip(holdout, leaks, strict=True) if not leak)


class _Caps:
    """Counts the selected reports: total, per reporter and per cluster."""

    def __init__(self, config: DatasetConfig) -> None:
        self._config = config
        self._per_cluster: Counter[int] = Counter()
        self._per_reporter: Counter[str] = Counter()

    def reached(self, reporter: str, cluster: Cluster) -> LeftOut | None:
        if self._per_reporter[reporter] >= self._config.max_per_reporter:
            return LeftOut.MAX_PER_REPORTER
        if self._per_cluster[cluster.id] >= self._config.max_per_cluster:
            return LeftOut.MAX_PER_CLUSTER
        return LeftOut.MAX_REPORTS if self._per_cluster.total() >= self._config.max_reports else None

    def count(self, reporter: str, cluster: Cluster) -> None:
        self._per_reporter[reporter] += 1
        self._per_cluster[cluster.id] += 1


class _Kept:
    """The training reports selected so far, for the detection of near-duplicates.

    Context, question and answer are compared separately, because a long common context would hide different questions.
    They are compared by words, because texts with similar embeddings may differ in the one name that matters.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._parts: dict[Kind, csr_matrix] = {}

    def has_similar(self, report: Report) -> bool:
        kept = self._parts.get(kind_of(report.flagged.category))
        if kept is None:
            return False
        parts = _parts(report)
        alike = np.min([cosines(kept[number::3], parts[[number]]) for number in range(3)], axis=0)
        return reaches(alike.max(), self._similarity)

    def add(self, report: Report) -> None:
        kind = kind_of(report.flagged.category)
        known = [self._parts[kind]] if kind in self._parts else []
        self._parts[kind] = vstack([*known, _parts(report)], format="csr")


def _parts(report: Report) -> csr_matrix:
    *context, _ = [message.text for message in report.messages]
    return Words().vectors(["\n".join(context), report.prompt_text, report.flagged.shown_response])
