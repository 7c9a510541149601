"""Whose lesson comes next, and how many places each sender may have, so that nobody's reports crowd out another's.

Principals take turns; inside a principal its reporters, inside a reporter its clusters, newest first. A crowd of new
names gains nothing against older ones: half of the turns go to the reporters who wait longest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias, TypeVar

from daemon.config.dataset import DatasetConfig
from daemon.labels import LeftOut
from daemon.records import Cluster, Lesson, Report, ReportState

T = TypeVar("T")
Sender: TypeAlias = tuple[str, str]
"""A principal, and one of its reporters."""
IsTrusted: TypeAlias = Callable[[str], bool]
"""Whether the operator vouches for a principal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A lesson that the run may use."""

    report: Report
    lesson: Lesson
    cluster: Cluster
    sender: Sender
    """Whose places it takes."""
    backers: frozenset[Sender]
    """All who say what it teaches."""

    @property
    def principals(self) -> frozenset[str]:
        return frozenset(principal for principal, _ in self.backers)


def candidates(found: Sequence[tuple[Report, Lesson]], assigned: Mapping[str, Cluster]) -> list[Candidate]:
    """A lesson that several principals back takes a place of the one with the fewest lessons so far."""
    lessons: Counter[str] = Counter()
    made = []
    for report, lesson in found:
        backers = _backers(report, lesson)
        sender = min(backers, key=lambda one: lessons[one[0]])  # the first of those with equally few
        lessons[sender[0]] += 1
        cluster = assigned[report.id]
        made.append(Candidate(report=report, lesson=lesson, cluster=cluster, sender=sender, backers=frozenset(backers)))
    return made


def _backers(report: Report, lesson: Lesson) -> list[Sender]:
    """Those whose correction the lesson teaches; without one, all who reported the answer. The report's own first."""
    taught = [part for part in report.parts if part.correction is not None and part.correction == lesson.correction]
    return list(dict.fromkeys((part.principal, part.reporter) for part in taught or report.parts))


def turns(waiting: Sequence[Candidate]) -> dict[str, deque[Candidate]]:
    """The lessons of each principal in their order: unresolved ones first, and then reporters in turn."""
    by_principal: dict[str, list[Candidate]] = defaultdict(list)
    for one in waiting:
        by_principal[one.sender[0]].append(one)
    return {principal: deque(_of_principal(by_principal[principal])) for principal in sorted(by_principal)}


def _of_principal(waiting: Sequence[Candidate]) -> Iterator[Candidate]:
    for resolved in (False, True):
        by_reporter: dict[str, list[Candidate]] = defaultdict(list)
        for one in waiting:
            if (one.report.state is ReportState.RESOLVED) == resolved:
                by_reporter[one.sender[1]].append(one)
        reporters = sorted(by_reporter, key=lambda name: (_oldest(by_reporter[name]), name))
        yield from _in_turn([_of_reporter(by_reporter[name]) for name in _from_both_ends(reporters)])


def _of_reporter(waiting: Iterable[Candidate]) -> list[Candidate]:
    by_cluster: dict[int, list[Candidate]] = defaultdict(list)
    for one in sorted(waiting, key=lambda one: (one.report.received_at, one.report.id), reverse=True):
        by_cluster[one.cluster.id].append(one)
    return list(_in_turn(list(by_cluster.values())))


def _oldest(waiting: Iterable[Candidate]) -> float:
    return min(one.report.received_at.timestamp() for one in waiting)


def _from_both_ends(values: Sequence[T]) -> list[T]:
    """First, last, second, last but one, and so on."""
    half = (len(values) + 1) // 2
    return list(_in_turn([values[:half], values[half:][::-1]]))


def _in_turn(groups: Sequence[Sequence[T]]) -> Iterator[T]:
    """The first of each group, then the second of each, and so on."""
    for round_ in zip_longest(*([(value,) for value in group] for group in groups), fillvalue=()):
        for value in round_:
            yield from value


class Places:
    """The places of a run: in all, and per principal, reporter and cluster."""

    def __init__(self, config: DatasetConfig, waiting: Sequence[Candidate], is_trusted: IsTrusted) -> None:
        self._config = config
        self._is_trusted = is_trusted
        self._taken: Counter[str] = Counter()
        self._by_sender: Counter[Sender] = Counter()
        self._by_cluster: Counter[int] = Counter()
        self._by_both: Counter[tuple[str, int]] = Counter()
        self._waiting_by_cluster = Counter(one.cluster.id for one in waiting)
        self._waiting_by_both = Counter((one.sender[0], one.cluster.id) for one in waiting)
        # with fewer principals than the share allows for, the places would not fill
        self._share = max(config.max_principal_share, 1 / max(len({one.sender[0] for one in waiting}), 1))

    def has_its_share(self, principal: str, *, others_wait: bool) -> bool:
        """Whether a principal has all the places that it may have beside the others, or while they still wait."""
        taken, total = self._taken[principal], self._taken.total()
        if self._is_trusted(principal) or taken < self._config.min_per_principal:
            return False
        alone = total == taken and not others_wait
        return not alone and taken + 1 > math.ceil(self._share * (total + 1))

    def why_not(self, one: Candidate) -> LeftOut | None:
        if self._by_sender[one.sender] >= self._config.max_per_reporter:
            return LeftOut.MAX_PER_REPORTER
        if self._by_cluster[one.cluster.id] >= self._config.max_per_cluster:
            return LeftOut.MAX_PER_CLUSTER
        if self._taken.total() >= self._config.max_reports:
            return LeftOut.MAX_REPORTS
        return LeftOut.MAX_PER_PRINCIPAL if self._has_its_share_of(one.cluster.id, one.sender[0]) else None

    def _has_its_share_of(self, cluster: int, principal: str) -> bool:
        """An untrusted principal leaves the others their share of a cluster, as far as they have lessons in it."""
        if self._is_trusted(principal):
            return False
        most = self._config.max_per_cluster
        of_others = self._waiting_by_cluster[cluster] - self._waiting_by_both[principal, cluster]
        return self._by_both[principal, cluster] >= max(math.ceil(self._share * most), most - of_others)

    def take(self, one: Candidate) -> None:
        self._taken[one.sender[0]] += 1
        self._by_sender[one.sender] += 1
        self._by_cluster[one.cluster.id] += 1
        self._by_both[one.sender[0], one.cluster.id] += 1


def in_turn(waiting: Sequence[Candidate], places: Places, take: Callable[[Candidate], bool]) -> list[Candidate]:
    """Offer the candidates one by one; a turn ends when one is taken.

    Returns those that were not offered, because their principals have their share.
    """
    queues = turns(waiting)
    moved = True
    while queues and moved:
        moved = False
        for principal in list(queues):
            queue = queues[principal]
            if places.has_its_share(principal, others_wait=len(queues) > 1):
                continue
            moved = True
            while queue and not take(queue.popleft()):
                pass
            if not queue:
                del queues[principal]
    return [one for queue in queues.values() for one in queue]
