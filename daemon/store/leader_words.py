"""The words of the clusters' leaders, as numbers: which leaders share a word with a text, without reading them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from sqlalchemy import Column, Connection, ForeignKey, Index, Integer, Select, Table, bindparam, select, update

from daemon.records import Split
from daemon.store import schema
from daemon.store.columns import OneOf
from daemon.store.counts import up_to
from daemon.text.quotes import ERASED

leader_words = Table(
    "leader_words",
    schema.metadata,
    Column("word", Integer, primary_key=True, autoincrement=False),
    Column("cluster_id", Integer, ForeignKey("clusters.id"), primary_key=True),
    Index("ix_leader_words_cluster", "cluster_id"),
)
"""A leader without `words_version` waits to be taken in."""
Index("ix_clusters_words_version", schema.clusters.c.words_version, schema.clusters.c.id)
Index("ix_clusters_leader", schema.clusters.c.leader_id)

cluster_counts = Table(
    "cluster_counts",
    schema.metadata,
    Column("category", schema.clusters.c.category.type, primary_key=True),
    Column("split", OneOf(Split, 10), primary_key=True),
    Column("clusters", Integer, nullable=False),
)
"""The number of clusters of each category and side, kept by the database itself."""

AT_ONCE = 500
"""Leaders that one transaction takes in."""
MANY = 1_000
"""A word that this many leaders have is common; more are not counted."""

WordsOf = Callable[[Sequence[str]], Sequence[Collection[int]]]
"""The numbers of the words of each text."""


def take_in(connection: Connection, words_of: WordsOf, version: int) -> int:
    """Keep the words of some leaders without words of this version; returns the number of leaders."""
    clusters = schema.clusters
    query = select(clusters.c.id, clusters.c.leader_text).where(clusters.c.words_version < version)
    found = connection.execute(
        query.order_by(clusters.c.words_version, clusters.c.id).limit(AT_ONCE).with_for_update()
    ).all()
    if found:
        ids = [row.id for row in found]
        _forget(connection, ids)
        words = words_of([row.leader_text for row in found])
        rows = [{"word": int(word), "cluster_id": one} for one, some in zip(ids, words, strict=True) for word in some]
        connection.execute(leader_words.insert(), rows)
        connection.execute(update(clusters).where(clusters.c.id.in_(ids)).values(words_version=version))
    return len(found)


def erase_leaders(connection: Connection, report_ids: Collection[str]) -> None:
    """Of clusters that these reports lead, only id, category and side stay."""
    clusters = schema.clusters
    of_reports = clusters.c.leader_id.in_(report_ids)
    ids = connection.execute(select(clusters.c.id).where(of_reports)).scalars().all()
    _forget(connection, ids)
    connection.execute(update(clusters).where(of_reports).values(leader_text=ERASED, words_version=0))


def spread(connection: Connection, words: Collection[int]) -> dict[int, int]:
    """The number of leaders that have each word, at most `MANY`."""
    query = up_to(select(leader_words.c.word).where(leader_words.c.word == bindparam("of")), MANY)
    return {word: connection.execute(query, {"of": word}).scalar_one() for word in words}


def with_any(words: Sequence[int]) -> Select[int]:
    """The ids of the clusters whose leaders have at least one of the words."""
    return select(leader_words.c.cluster_id).where(leader_words.c.word.in_(words)).distinct()


def _forget(connection: Connection, cluster_ids: Collection[int]) -> None:
    connection.execute(leader_words.delete().where(leader_words.c.cluster_id.in_(cluster_ids)))
