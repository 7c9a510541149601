"""Groups similar reports into clusters and assigns each cluster permanently to the training or the holdout side.

Leader clustering: a report joins the nearest cluster of its kind of mistake if the first prompt of that cluster (the
leader) is similar enough. Otherwise it opens a new cluster. A new cluster whose leader resembles that of another kind
takes its side: one question is on one side, whatever it is called. Senders choose the category, so kinds are a closed
set.

Leaders are stored as text, so they work with every vectorizer. If the vectorizer changes, the clusters stay: a report
never changes its cluster, and a cluster never changes its side. Only new reports are placed with the new vectorizer.
Clustering again could move held-out reports to the training side.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from daemon.categories import Kind, kind_of
from daemon.dataset.split import next_split
from daemon.records import Cluster, Report, Split
from daemon.store import Clusters, Placing
from daemon.text.similarity import TOLERANCE, WORDS_VERSION, Vectorizer, Vectors, Words, cosines

AT_ONCE = 100
"""Reports that are compared with the leaders at once, and stored in one transaction."""


def assign(
    store: Clusters,
    reports: Sequence[Report],
    *,
    vectorizer: Vectorizer,
    similarity: float,
    holdout_fraction: float,
    key: bytes,
) -> dict[str, Cluster]:
    """The cluster of each report. Reports without one are assigned now, oldest first, and stored.

    Up to `AT_ONCE` reports share a transaction. After a crash, the next call assigns the remaining reports. `key`
    decides on the sides of new clusters (`daemon.dataset.split`).
    """
    placed = {report.id: report.cluster_id for report in reports if report.cluster_id is not None}
    by_id = {cluster.id: cluster for cluster in store.some(set(placed.values()))}
    assigned = {report_id: by_id[cluster_id] for report_id, cluster_id in placed.items()}
    waiting = sorted(
        (report for report in reports if report.cluster_id is None), key=lambda report: (report.received_at, report.id)
    )
    if not waiting:
        return assigned
    prompts = [report.prompt_text for report in waiting]
    leaders: _Leaders
    if isinstance(vectorizer, Words):
        rows, leaders = vectorizer.vectors(prompts), _SharingWords(store, vectorizer, similarity)
    else:
        clusters = store.all()
        vectors = vectorizer.vectors([*(one.leader_text for one in clusters), *prompts])
        rows, leaders = vectors[len(clusters) :], _All(clusters, vectors[: len(clusters)])
    placing = _Placing(store, leaders, similarity=similarity, holdout_fraction=holdout_fraction, key=key)
    for start in range(0, len(waiting), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        assigned |= placing.place(waiting[some], rows[some])
    return assigned


class _Leaders(Protocol):
    """The clusters that reports are compared with."""

    def near(self, rows: Vectors) -> tuple[list[Cluster], Vectors]:
        """By id, all whose leader may be similar enough to one of these texts, with the leaders' vectors."""
        ...

    def add(self, opened: Sequence[Cluster], rows: Vectors) -> None:
        """New ones, with their leaders' vectors."""
        ...


class _All:
    """Every cluster."""

    def __init__(self, clusters: list[Cluster], rows: Vectors) -> None:
        self._clusters, self._rows = clusters, rows

    def near(self, rows: Vectors) -> tuple[list[Cluster], Vectors]:  # noqa: ARG002 - each is compared with all
        return self._clusters, self._rows

    def add(self, opened: Sequence[Cluster], rows: Vectors) -> None:
        self._clusters = [*self._clusters, *opened]
        self._rows = np.concatenate([self._rows, rows])


class _SharingWords:
    """Found by the words that a similar leader must share with the text: the store has an index of them.

    Both vectors have norm 1, so the words that are left away add at most their own norm to the cosine. As many of the
    most common words are left away as keep that below the similarity: a leader without any of the others cannot reach
    it. So nothing is missed.
    """

    def __init__(self, store: Clusters, vectorizer: Words, similarity: float) -> None:
        self._store = store
        self._vectorizer = vectorizer
        self._least = similarity - 2 * TOLERANCE

    def near(self, rows: Vectors) -> tuple[list[Cluster], Vectors]:
        self._store.take_in_words(self._words, version=WORDS_VERSION)
        sparse = csr_matrix(rows)
        spread = self._store.spread([*map(int, np.unique(sparse.indices))])
        clusters = self._store.with_words({word for row in sparse for word in self._telling(row, spread)})
        texts = [one.leader_text for one in clusters]
        return clusters, self._vectorizer.vectors(texts) if texts else rows[:0]

    def add(self, opened: Sequence[Cluster], rows: Vectors) -> None:
        """Nothing to do: the store has them."""

    def _words(self, texts: Sequence[str]) -> list[list[int]]:
        return [row.indices.tolist() for row in self._vectorizer.vectors(texts)]

    def _telling(self, row: csr_matrix, spread: Mapping[int, int]) -> list[int]:
        """The rarest words of a text of which a similar leader must have one."""
        words = sorted(zip(row.indices.tolist(), row.data.tolist(), strict=True), key=lambda one: (spread[one[0]], one))
        left_away = 0.0
        while words and math.sqrt(left_away + words[-1][1] ** 2) < self._least:
            left_away += words.pop()[1] ** 2
        return [word for word, _ in words]


class _Placing:
    """Places reports, and counts the clusters on each side."""

    def __init__(
        self, store: Clusters, leaders: _Leaders, *, similarity: float, holdout_fraction: float, key: bytes
    ) -> None:
        self._store = store
        self._leaders = leaders
        self._similarity = similarity
        self._holdout_fraction = holdout_fraction
        self._key = key
        self._sides: defaultdict[Kind, Counter[Split]] = defaultdict(Counter)
        for category, sides in store.sides().items():
            self._sides[kind_of(category)] += sides

    def place(self, reports: Sequence[Report], rows: Vectors) -> dict[str, Cluster]:
        """In one transaction. `rows`: their vectors."""
        leaders, vectors = self._leaders.near(rows)
        known = cosines(vectors, rows) if leaders else np.zeros((0, len(reports)))
        clusters = [*leaders]
        placed: dict[str, Cluster] = {}
        opened: list[int] = []
        with self._store.placing() as store:
            for number, report in enumerate(reports):
                new = cosines(rows[opened], rows[[number]])[:, 0] if opened else np.zeros(0)
                near = self._near(clusters, np.concatenate([known[:, number], new]))
                own = next((cluster for cluster in near if kind_of(cluster.category) is report.kind), None)
                if own is None:
                    own = self._open(store, report, near)
                    clusters.append(own)
                    opened.append(number)
                else:
                    store.join(report.id, own.id)
                placed[report.id] = own
        if opened:
            self._leaders.add(clusters[-len(opened) :], rows[opened])
        return placed

    def _open(self, store: Placing, report: Report, near: Sequence[Cluster]) -> Cluster:
        kind, text = report.kind, report.prompt_text
        split = near[0].split if near else self._next_split(kind, text)
        self._sides[kind][split] += 1
        return store.open(report_id=report.id, category=kind.value, leader_text=text, split=split)

    def _next_split(self, kind: Kind, leader_text: str) -> Split:
        return next_split(self._sides[kind], self._holdout_fraction, key=self._key, leader_text=leader_text)

    def _near(self, clusters: Sequence[Cluster], similarities: NDArray[np.float64]) -> list[Cluster]:
        """Those with a similar leader, the nearest first."""
        near = np.flatnonzero(similarities >= self._similarity - TOLERANCE)
        return [clusters[index] for index in near[np.argsort(-similarities[near], kind="stable")]]
