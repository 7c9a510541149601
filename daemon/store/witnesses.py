"""Who reports what: the facts from which `daemon.trust.corroboration` tells whose reports support each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from sqlalchemy import Engine, func, select

from daemon.parts import Part
from daemon.records import INDUCED, Report, utcnow
from daemon.store import schema
from daemon.store.duplicates import IN_PLAY, with_others
from daemon.store.engine import reading
from daemon.trust.corroboration import MAX_VOICES_PER_PRINCIPAL, voices_of

LOOKUP_SIZE = 1000


class Witnesses:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def active(self, *, days: int) -> int:
        """The number of principals, without erratad itself, that sent reports in the last `days`."""
        table = schema.reports
        query = select(func.count(table.c.principal.distinct())).where(
            table.c.received_at > utcnow() - timedelta(days=days), table.c.principal != INDUCED
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one()

    def of_clusters(self, cluster_ids: Collection[int]) -> Mapping[int, Sequence[Part]]:
        """What the reports of each cluster and their duplicates say, bounded per cluster and principal."""
        ids = sorted(set(cluster_ids))
        found: dict[int, Sequence[Part]] = {}
        for start in range(0, len(ids), LOOKUP_SIZE):
            found |= self._of_some(ids[start : start + LOOKUP_SIZE])
        return found

    def _of_some(self, cluster_ids: Sequence[int]) -> dict[int, Sequence[Part]]:
        table = schema.reports
        place = func.row_number().over(
            partition_by=(table.c.cluster_id, table.c.principal), order_by=(table.c.received_at.desc(), table.c.id)
        )
        ranked = (
            select(table.c.id, place.label("place"))
            .where(table.c.cluster_id.in_(cluster_ids), table.c.state.in_(IN_PLAY))
            .subquery()
        )
        newest = select(ranked.c.id).where(ranked.c.place <= MAX_VOICES_PER_PRINCIPAL)
        with reading(self._engine) as connection:
            reports = with_others(connection, connection.execute(select(table).where(table.c.id.in_(newest))).all())
        groups: dict[int, list[Report]] = {}
        for report in reports:
            if report.cluster_id is not None:
                groups.setdefault(report.cluster_id, []).append(report)
        return {cluster: voices_of(members) for cluster, members in groups.items()}
