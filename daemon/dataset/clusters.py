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

from collections.abc import Sequence

import numpy as np

from daemon.categories import Kind, kind_of
from daemon.dataset.split import next_split
from daemon.records import Cluster, Report, Split
from daemon.store import Clusters
from daemon.text.similarity import Vectorizer, Vectors, cosines, reaches


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

    Each assignment is a transaction of its own. After a crash, the next call assigns the remaining reports. `key`
    decides on the sides of new clusters (`daemon.dataset.split`).
    """
    clusters = store.all()
    by_id = {cluster.id: cluster for cluster in clusters}
    assigned = {report.id: by_id[report.cluster_id] for report in reports if report.cluster_id is not None}
    waiting = sorted(
        (report for report in reports if report.cluster_id is None), key=lambda report: (report.received_at, report.id)
    )
    if not waiting:
        return assigned
    rows = vectorizer.vectors([*(one.leader_text for one in clusters), *(report.prompt_text for report in waiting)])
    placing = _Placing(store, rows, similarity=similarity, holdout_fraction=holdout_fraction, key=key)
    for row, cluster in enumerate(clusters):
        placing.add(cluster, row)
    for row, report in enumerate(waiting, start=len(clusters)):
        assigned[report.id] = placing.place(report, row)
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

    def add(self, cluster: Cluster, row: int) -> None:
        self._clusters.append(cluster)
        self._leaders.append(row)

    def place(self, report: Report, row: int) -> Cluster:
        kind = report.kind
        near = self._near(row)
        if own := next((cluster for cluster in near if kind_of(cluster.category) is kind), None):
            self._store.join(report.id, own.id)
            return own
        split = near[0].split if near else self._next_split(kind, report.prompt_text)
        cluster = self._store.open(
            report_id=report.id, category=kind.value, leader_text=report.prompt_text, split=split
        )
        self.add(cluster, row)
        return cluster

    def _next_split(self, kind: Kind, leader_text: str) -> Split:
        splits = [cluster.split for cluster in self._clusters if kind_of(cluster.category) is kind]
        return next_split(splits, self._holdout_fraction, key=self._key, leader_text=leader_text)

    def _near(self, row: int) -> list[Cluster]:
        """The clusters with a similar leader, the nearest first."""
        if not self._leaders:
            return []
        found = cosines(self._rows[self._leaders], self._rows[[row]]).ravel()
        order = np.argsort(-found, kind="stable")
        return [self._clusters[index] for index in order if reaches(found[index], self._similarity)]
