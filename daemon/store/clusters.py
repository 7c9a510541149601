"""Clusters of near-identical reports: each has one split permanently, so no holdout item is ever trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Select, select, update

from daemon.errors import IllegalTransitionError
from daemon.records import Cluster, ReportState, Split
from daemon.store import rows, schema
from daemon.store.duplicates import batches
from daemon.store.engine import reading, transaction
from daemon.store.leader_words import WordsOf, cluster_counts, spread, take_in, with_any
from daemon.store.reports import report_row
from daemon.text.quotes import ERASED


class Clusters:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[Cluster]:
        """In the order of their ids."""
        return self._found(select(schema.clusters).order_by(schema.clusters.c.id))

    def sides(self) -> dict[str, Counter[Split]]:
        """The number of clusters on each side, by category."""
        found: defaultdict[str, Counter[Split]] = defaultdict(Counter)
        with reading(self._engine) as connection:
            for row in connection.execute(select(cluster_counts)):
                found[row.category][row.split] = row.clusters
        return found

    def take_in_words(self, words_of: WordsOf, *, version: int) -> None:
        """Keep the words of all leaders that have none of this version, for `rarest` and `with_words`."""
        table = schema.clusters
        waiting = select(table.c.id).where(table.c.words_version < version).limit(1)
        while True:
            with reading(self._engine) as connection:
                if connection.execute(waiting).first() is None:
                    return
            with transaction(self._engine) as connection:
                take_in(connection, words_of, version)

    def spread(self, words: Collection[int]) -> dict[int, int]:
        """The number of leaders that have each word; common words are counted up to `leader_words.MANY`."""
        with reading(self._engine) as connection:
            return spread(connection, words)

    def with_words(self, words: Collection[int]) -> list[Cluster]:
        """The clusters whose leaders have at least one of these words, in the order of their ids."""
        ids: set[int] = set()
        with reading(self._engine) as connection:
            for some in batches(sorted(words)):
                ids.update(connection.execute(with_any(some)).scalars())
        return self.some(ids)

    def some(self, ids: Iterable[int]) -> list[Cluster]:
        """In the order of their ids."""
        table = schema.clusters
        queries = (select(table).where(table.c.id.in_(few)).order_by(table.c.id) for few in batches(sorted(ids)))
        return [cluster for query in queries for cluster in self._found(query)]

    def open(self, *, report_id: str, category: str, leader_text: str, split: Split) -> Cluster:
        """Open a cluster with its first report, in one transaction."""
        with self.placing() as placing:
            return placing.open(report_id=report_id, category=category, leader_text=leader_text, split=split)

    def join(self, report_id: str, cluster_id: int) -> None:
        with self.placing() as placing:
            placing.join(report_id, cluster_id)

    @contextmanager
    def placing(self) -> Iterator[Placing]:
        """One transaction that places many reports."""
        with transaction(self._engine) as connection:
            yield Placing(connection)

    def _found(self, query: Select[Any]) -> list[Cluster]:
        with reading(self._engine) as connection:
            return [rows.record(Cluster, row) for row in connection.execute(query)]


class Placing:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def open(self, *, report_id: str, category: str, leader_text: str, split: Split) -> Cluster:
        if report_row(self._connection, report_id, lock=True).state == ReportState.ERASED:
            leader_text = ERASED
        cluster_id = self._connection.execute(
            schema.clusters.insert()
            .values(category=category, leader_text=leader_text, leader_id=report_id, split=split)
            .returning(schema.clusters.c.id)
        ).scalar_one()
        _join(self._connection, report_id, cluster_id)
        return Cluster(id=cluster_id, category=category, leader_text=leader_text, split=split)

    def join(self, report_id: str, cluster_id: int) -> None:
        _join(self._connection, report_id, cluster_id)


def _join(connection: Connection, report_id: str, cluster_id: int) -> None:
    table = schema.reports
    row = report_row(connection, report_id, lock=True)
    if row.cluster_id not in {None, cluster_id}:
        raise IllegalTransitionError(f"report {report_id} is in cluster {row.cluster_id} permanently, not {cluster_id}")
    connection.execute(update(table).where(table.c.id == report_id).values(cluster_id=cluster_id))
