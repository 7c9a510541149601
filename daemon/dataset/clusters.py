"""Groups similar reports into clusters and assigns each cluster permanently to the training or the holdout side.

Leader clustering: a report joins the nearest cluster of its category if the first prompt of that cluster (the leader)
is similar enough. Otherwise it opens a new cluster. Leaders are stored as text, so they work with every vectorizer. If
the vectorizer changes, the clusters stay: a report never changes its cluster, and a cluster never changes its side.
Only new reports are placed with the new vectorizer. Clustering again could move held-out reports to the training side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
) -> dict[str, Cluster]:
    """The cluster of each report. Reports without one are assigned now, oldest first, and stored.

    Each assignment is a transaction of its own. After a crash, the next call assigns the remaining reports.
    """
    clusters = store.all()
    by_id = {cluster.id: cluster for cluster in clusters}
    assigned = {report.id: by_id[report.cluster_id] for report in reports if report.cluster_id is not None}
    waiting = sorted(
        (report for report in reports if report.cluster_id is None), key=lambda report: (report.received_at, report.id)
    )
    if not waiting:
        return assigned
    categories = {report.flagged.category for report in waiting}
    known = [cluster for cluster in clusters if cluster.category in categories]
    rows = vectorizer.vectors([*(one.leader_text for one in known), *(report.prompt_text for report in waiting)])
    groups = {category: _Category(rows) for category in categories}
    for row, cluster in enumerate(known):
        groups[cluster.category].add(cluster, row)
    for row, report in enumerate(waiting, start=len(known)):
        group = groups[report.flagged.category]
        assigned[report.id] = group.place(store, report, row, similarity, holdout_fraction)
    return assigned


class _Category:
    """The clusters of one category, with the row numbers of their leaders' vectors."""

    def __init__(self, rows: Vectors) -> None:
        self._rows = rows
        self._clusters: list[Cluster] = []
        self._leaders: list[int] = []

    def add(self, cluster: Cluster, row: int) -> None:
        self._clusters.append(cluster)
        self._leaders.append(row)

    def place(self, store: Clusters, report: Report, row: int, similarity: float, holdout_fraction: float) -> Cluster:
        nearest = self._nearest(row, similarity)
        if nearest is not None:
            store.join(report.id, nearest.id)
            return nearest
        split = next_split([cluster.split for cluster in self._clusters], holdout_fraction)
        cluster = store.open(
            report_id=report.id, category=report.flagged.category, leader_text=report.prompt_text, split=split
        )
        self.add(cluster, row)
        return cluster

    def _nearest(self, row: int, similarity: float) -> Cluster | None:
        if not self._leaders:
            return None
        found = cosines(self._rows[self._leaders], self._rows[[row]]).ravel()
        best = int(np.argmax(found))
        return self._clusters[best] if reaches(found[best], similarity) else None


def next_split(splits: Sequence[Split], holdout_fraction: float) -> Split:
    """The side of the next cluster of a category: holdout if that brings the holdout share closer to its target.

    The first cluster always goes to training, because a category with only held-out reports could not be learned.
    """
    held_out = sum(split is Split.HOLDOUT for split in splits)
    wanted = holdout_fraction * (len(splits) + 1)
    return Split.HOLDOUT if splits and held_out + 0.5 <= wanted else Split.TRAIN
