"""Which reports are about the same thing, and on which side of the holdout each group stands, for ever.

Leader clustering: a report joins the nearest cluster of its category whose first prompt (the leader) is similar enough,
or opens a cluster. Words are hashed, so nothing is fitted and old clusters keep their meaning as new reports come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, HashingVectorizer

from daemon.records import Cluster, Report, Split
from daemon.store import Reports

_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def features(text: str) -> list[str]:
    """What two prompts are compared by: their words without English function words.

    "What is the capital of France?" and "... of Spain?" share one of two features, not five of six words. Scripts
    without spaces are cut into pairs of characters.
    """
    words = _WORD.findall(text.casefold())
    content = [word for word in words if word not in ENGLISH_STOP_WORDS] or words or [text.strip()]
    return [feature for word in content for feature in _cut(word)]


def _cut(word: str) -> list[str]:
    if len(word) < 3 or not _UNSPACED.search(word):
        return [word]
    return [word[start : start + 2] for start in range(len(word) - 1)]


_VECTORIZER = HashingVectorizer(analyzer=features, n_features=2**18, alternate_sign=False, norm="l2")


def vectors(texts: Iterable[str]) -> csr_matrix:
    """One row of length 1 per text: the product of two rows is their cosine similarity."""
    return _VECTORIZER.transform(texts)


def assign(
    store: Reports, reports: Sequence[Report], *, similarity: float, holdout_fraction: float
) -> dict[str, Cluster]:
    """The cluster of each report; reports without one are clustered now, oldest first, and the store remembers.

    A crash half-way leaves complete assignments only: the next call goes on.
    """
    clusters = store.clusters()
    by_id = {cluster.id: cluster for cluster in clusters}
    assigned = {report.id: by_id[report.cluster_id] for report in reports if report.cluster_id is not None}
    waiting = sorted(
        (report for report in reports if report.cluster_id is None), key=lambda report: (report.received_at, report.id)
    )
    groups: dict[str, _Category] = {}
    for report in waiting:
        category = report.flagged.category
        if category not in groups:
            groups[category] = _Category([cluster for cluster in clusters if cluster.category == category])
        assigned[report.id] = groups[category].place(store, report, similarity, holdout_fraction)
    return assigned


class _Category:
    """The clusters of one category and their leaders' vectors."""

    def __init__(self, clusters: list[Cluster]) -> None:
        self._clusters = clusters
        self._leaders = vectors(cluster.leader_text for cluster in clusters) if clusters else None

    def place(self, store: Reports, report: Report, similarity: float, holdout_fraction: float) -> Cluster:
        vector = vectors([report.prompt_text])
        nearest = self._nearest(vector, similarity)
        if nearest is not None:
            store.join_cluster(report.id, nearest.id)
            return nearest
        split = next_split([cluster.split for cluster in self._clusters], holdout_fraction)
        cluster = store.new_cluster(
            report_id=report.id, category=report.flagged.category, leader_text=report.prompt_text, split=split
        )
        self._clusters.append(cluster)
        self._leaders = vector if self._leaders is None else vstack([self._leaders, vector], format="csr")
        return cluster

    def _nearest(self, vector: csr_matrix, similarity: float) -> Cluster | None:
        if self._leaders is None:
            return None
        cosines = (self._leaders @ vector.T).toarray().ravel()
        best = int(np.argmax(cosines))
        return self._clusters[best] if reaches(cosines[best], similarity) else None


def next_split(splits: Sequence[Split], holdout_fraction: float) -> Split:
    """The side of a category's next cluster: held out where that brings the share of held-out clusters nearer.

    The first cluster always goes to training: a category that is only held out could not be learned.
    """
    held_out = sum(split is Split.HOLDOUT for split in splits)
    wanted = holdout_fraction * (len(splits) + 1)
    return Split.HOLDOUT if splits and held_out + 0.5 <= wanted else Split.TRAIN


def straddling(train: Sequence[Report], holdout: Sequence[Report], *, similarity: float) -> set[str]:
    """Training reports that resemble a held-out one, of whichever category: training on them would leak the answer.

    Clusters bound the distance to a leader only, so members of two clusters may still be near-duplicates.
    """
    texts, others = ([report.prompt_text for report in side] for side in (train, holdout))
    near = resembling(texts, others, similarity=similarity)
    return {report.id for report, leaks in zip(train, near, strict=True) if leaks}


def resembling(texts: Sequence[str], others: Sequence[str], *, similarity: float) -> list[bool]:
    """For each text, whether one of the others is as similar."""
    if not texts or not others:
        return [False] * len(texts)
    nearest = (vectors(texts) @ vectors(others).T).max(axis=1).toarray().ravel()
    return [reaches(cosine, similarity) for cosine in nearest]


def reaches(cosine: float, similarity: float) -> bool:
    """`cosine >= similarity`, forgiving the rounding that leaves identical texts at 0.9999999."""
    return bool(cosine >= similarity - 1e-9)
