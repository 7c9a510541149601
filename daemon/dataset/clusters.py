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

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.categories import Kind, kind_of
from daemon.dataset.split import next_split
from daemon.records import Cluster, Report, Split
from daemon.store import Clusters, Placing
from daemon.text.similarity import TOLERANCE, Vectorizer, Vectors, cosines

AT_ONCE = 100
"""Reports that are compared with all leaders at once, and stored in one transaction."""


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
    clusters = store.all()
    rows = vectorizer.vectors([*(one.leader_text for one in clusters), *(report.prompt_text for report in waiting)])
    placing = _Placing(store, rows, similarity=similarity, holdout_fraction=holdout_fraction, key=key)
    for row, cluster in enumerate(clusters):
        placing.add(cluster, row)
    for start in range(0, len(waiting), AT_ONCE):
        assigned |= placing.place(waiting[start : start + AT_ONCE], len(clusters) + start)
    return assigned


class _Placing:
    """All clusters, with the row numbers of their leaders' vectors."""

    def __init__(
        self, store: Clusters, rows: Vectors, *, similarity: float, holdout_fraction: float, key: bytes
    ) -> None:
        self._store = store
        self._rows = rows
        self._similarity = similarity
        self._holdout_fraction = holdout_fraction
        self._key = key
        self._clusters: list[Cluster] = []
        self._leaders: list[int] = []
        self._splits: defaultdict[Kind, list[Split]] = defaultdict(list)

    def add(self, cluster: Cluster, row: int) -> None:
        self._clusters.append(cluster)
        self._leaders.append(row)
        self._splits[kind_of(cluster.category)].append(cluster.split)

    def place(self, reports: Sequence[Report], first: int) -> dict[str, Cluster]:
        """In one transaction. `first`: the number of the first report's row; the others follow it."""
        known = self._compared(0, range(first, first + len(reports)))
        older = len(self._leaders)
        with self._store.placing() as store:
            return {
                report.id: self._place(store, report, row, [known[:, place], self._compared(older, [row])[:, 0]])
                for place, (row, report) in enumerate(enumerate(reports, start=first))
            }

    def _compared(self, since: int, rows: Sequence[int]) -> NDArray[np.float64]:
        """The similarity of the leaders from this one on (one row each) to some reports (one column each)."""
        leaders = self._leaders[since:]
        return cosines(self._rows[leaders], self._rows[list(rows)]) if leaders else np.zeros((0, len(rows)))

    def _place(self, store: Placing, report: Report, row: int, similarities: list[NDArray[np.float64]]) -> Cluster:
        kind, near = report.kind, self._near(np.concatenate(similarities))
        if own := next((cluster for cluster in near if kind_of(cluster.category) is kind), None):
            store.join(report.id, own.id)
            return own
        split = near[0].split if near else self._next_split(kind, report.prompt_text)
        cluster = store.open(report_id=report.id, category=kind.value, leader_text=report.prompt_text, split=split)
        self.add(cluster, row)
        return cluster

    def _next_split(self, kind: Kind, leader_text: str) -> Split:
        return next_split(self._splits[kind], self._holdout_fraction, key=self._key, leader_text=leader_text)

    def _near(self, similarities: NDArray[np.float64]) -> list[Cluster]:
        """The clusters with a similar leader, the nearest first."""
        near = np.flatnonzero(similarities >= self._similarity - TOLERANCE)
        return [self._clusters[index] for index in near[np.argsort(-similarities[near], kind="stable")]]
