"""Selects the lessons of a run for training and holdout: fairly, within the caps, without near-duplicates or leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix, vstack

from daemon.artifacts.examples import Example
from daemon.artifacts.run_folder import UnusableReport
from daemon.categories import Kind
from daemon.chat.readings import Refusal
from daemon.config.dataset import DatasetConfig
from daemon.dataset.fairness import Candidate, IsTrusted, Places, candidates, in_turn
from daemon.dataset.leaks import conflicts
from daemon.dataset.recipes import Recipe, without_repeats
from daemon.dataset.usable import Usable
from daemon.labels import Grade, LeftOut
from daemon.records import Cluster, Evidence, Lesson, Report, Split
from daemon.text.similarity import Vectorizer, Words, cosines, reaches
from daemon.text.words import normalised

WITHOUT_PLACE = (LeftOut.MAX_PER_PRINCIPAL, LeftOut.MAX_PER_CLUSTER, LeftOut.MAX_REPORTS)


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
    grades: Mapping[Grade, int] = field(default_factory=dict)
    """The lessons of both sides by grade."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Those that lack what others need, by trusted source."""

    @property
    def lessons(self) -> list[tuple[Report, Lesson]]:
        """Those of the training side."""
        return [(chosen.report, chosen.lesson) for chosen in self.train]

    @property
    def examples(self) -> list[Example]:
        return without_repeats([example for chosen in self.train for example in chosen.examples])


def select(
    found: Sequence[tuple[Report, Lesson]],
    assigned: Mapping[str, Cluster],
    *,
    config: DatasetConfig,
    render: Recipe,
    vectorizer: Vectorizer,
    usable: Usable,
    is_trusted: IsTrusted,
) -> Selection:
    """Select lessons in fair turns (`daemon.dataset.fairness`) within the caps, and render the training side.

    Of near-duplicates on the training side, the one with most support stays. On the holdout side each one is a real
    question of a user. Examples, and held-out prompts, that are known to be unusable are left out; others take their
    places.
    """
    waiting = candidates(found, assigned)
    places = Places(config, waiting, is_trusted)
    taking = _Taking(places, _Kept(config.near_duplicate), render, usable)
    held_back = in_turn(waiting, places, taking.take)
    train, holdout = taking.train(is_trusted), taking.holdout
    leaks, yielding = conflicts(
        train, holdout, vectorizer=vectorizer, similarity=config.same_kind, is_trusted=is_trusted
    )
    left_out = taking.left_out + Counter(
        {
            LeftOut.MAX_PER_PRINCIPAL: len(held_back),
            LeftOut.HELD_OUT_ALIKE: len(leaks),
            LeftOut.TRAINED_ALIKE: len(yielding),
        }
    )
    return Selection(
        train=tuple(taking.selected(one) for one in train if one.report.id not in leaks),
        holdout=tuple(taking.selected(one) for one in holdout if one.report.id not in yielding),
        left_out=dict(left_out),
        unusable=tuple(taking.unusable),
        dropped=taking.dropped,
    )


class _Taking:
    """Takes the candidates that can be used, in the order in which they come, and counts the others."""

    def __init__(self, places: Places, kept: _Kept, render: Recipe, usable: Usable) -> None:
        self._places = places
        self._kept = kept
        self._render = render
        self._usable = usable
        self._rendered: dict[str, _Rendered] = {}
        self._alike: list[list[Candidate]] = []
        """Training lessons that are near-duplicates of each other; the first of each has the place."""
        self._clusters: set[int] = set()
        self.holdout: list[Candidate] = []
        self.left_out: Counter[LeftOut] = Counter()
        self.unusable: list[UnusableReport] = []
        self.dropped: dict[str, Counter[LeftOut]] = defaultdict(Counter)

    def take(self, one: Candidate) -> bool:
        """Whether it gets a place."""
        trains = one.cluster.split is Split.TRAIN
        rendered = self._rendered[one.report.id] = self._render_one(one, trains=trains)
        if rendered.refusal is not None:
            why = rendered.refusal
            self.unusable.append(UnusableReport(report_id=one.report.id, reason=why.reason, detail=why.detail))
        why_not = rendered.why_not or self._places.why_not(one)
        similar = self._similar(one, why_not) if trains else None
        if similar is not None:
            self._alike[similar].append(one)
            why_not = LeftOut.NEAR_DUPLICATE
        if why_not is not None:
            self.left_out[why_not] += 1
            return False
        self._places.take(one)
        if trains:
            self._kept.add(one.report)
            self._clusters.add(one.cluster.id)
            self._alike.append([one])
        else:
            self.holdout.append(one)
        return True

    def _similar(self, one: Candidate, why_not: LeftOut | None) -> int | None:
        """The near-duplicate that has a place. One without a place left has a say in which of them keeps it."""
        if why_not is None or (why_not in WITHOUT_PLACE and one.cluster.id in self._clusters):
            return self._kept.similar(one.report)
        return None

    def _render_one(self, one: Candidate, *, trains: bool) -> _Rendered:
        if trains:
            return _Rendered.of(one.report, one.lesson, self._render, self._usable)
        return _Rendered(refusal=self._usable.why_not_held_out(one.report), held_out=True)

    def train(self, is_trusted: IsTrusted) -> list[Candidate]:
        """Of near-duplicates, the one with most support; the first of several."""
        chosen = [max(alike, key=lambda one: _support(one, alike, is_trusted)) for alike in self._alike]
        for one in chosen:
            for example, refusal in self._rendered[one.report.id].dropped:
                self.dropped[example.kind.value][refusal.reason] += 1
        return chosen

    def selected(self, one: Candidate) -> SelectedLesson:
        examples = self._rendered[one.report.id].examples
        return SelectedLesson(report=one.report, lesson=one.lesson, cluster=one.cluster, examples=examples)


def _support(one: Candidate, alike: Sequence[Candidate], is_trusted: IsTrusted) -> tuple[int, ...]:
    """How much speaks for this one of several near-duplicates: a person's review, trust, how many principals want the
    same answer, evidence, and last the number of reporters, whose names are free."""
    agreeing = {backer for other in alike if _wanted(other) == _wanted(one) for backer in other.backers}
    principals = {principal for principal, _ in agreeing}
    return (
        one.lesson.reviewed_at is not None,
        any(map(is_trusted, principals)),
        len(principals),
        list(Evidence).index(one.report.evidence),
        len(agreeing),
    )


def _wanted(one: Candidate) -> str | None:
    return None if one.lesson.correction is None else normalised(one.lesson.correction)


class _Kept:
    """The training reports selected so far, for the detection of near-duplicates.

    Context, question and answer are compared separately, because a long common context would hide different questions.
    They are compared by words, because texts with similar embeddings may differ in the one name that matters.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._parts: dict[Kind, csr_matrix] = {}
        self._numbers: dict[Kind, list[int]] = defaultdict(list)
        self._count = 0

    def similar(self, report: Report) -> int | None:
        """The number of the most similar one, in the order in which they were added; None: none is similar enough."""
        kind = report.kind
        kept = self._parts.get(kind)
        if kept is None:
            return None
        parts = _parts(report)
        alike = np.min([cosines(kept[number::3], parts[[number]]) for number in range(3)], axis=0)
        nearest = int(alike.argmax())
        return self._numbers[kind][nearest] if reaches(alike.max(), self._similarity) else None

    def add(self, report: Report) -> None:
        kind = report.kind
        known = [self._parts[kind]] if kind in self._parts else []
        self._parts[kind] = vstack([*known, _parts(report)], format="csr")
        self._numbers[kind].append(self._count)
        self._count += 1


def _parts(report: Report) -> csr_matrix:
    *context, _ = [message.text for message in report.messages]
    return Words().vectors(["\n".join(context), report.prompt_text, report.flagged.shown_response])
