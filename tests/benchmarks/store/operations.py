"""The operations whose cost is measured, as the daemon, the console and the command line call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from daemon.config import Config
from daemon.operations.gauges import GaugesStage
from daemon.operations.status import status
from daemon.records import Source, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.trust.policy import Policy
from tests.fixtures.history import mistake
from tests.fixtures.life import life

Operation = Callable[[], object]
BATCH = 200
_NUMBERS = itertools.count(10_000_000)


def operations(store: Store, config: Config, folder: Path) -> Mapping[str, Operation]:
    """By name. Those that change the store leave it nearly as it was."""
    policy = Policy.of(config)
    gauges = GaugesStage(store=store, policy=policy, serving=config.serving, data_dir=folder, stages=["reflection"])
    enough = policy.enough(policy.config.train_analysis)
    return {
        "claim": lambda: _claim(store),
        "gauges": lambda: gauges.step(life()),
        "status": lambda: status(store, config),
        "categories": store.reports.categories,
        "page": lambda: _page(store, ReportFilter()),
        "page_of_a_category": lambda: _page(store, ReportFilter(category="wrong-fact-1")),
        "page_of_a_principal": lambda: _page(store, ReportFilter(principal="backend-1")),
        "page_of_a_reporter": lambda: _page(store, ReportFilter(reporter="user-1")),
        "search_without_a_hit": lambda: _page(store, ReportFilter(search="zebra crossing")),
        "new_lessons": lambda: store.reports.count_new_lessons(enough),
        "is_trainable": store.reports.has_trainable,
        "reviews_waiting": store.reviews.waiting,
        "tally": lambda: store.traffic.tally(3),
        "tally_of_a_day": lambda: store.traffic.tally(3, since=utcnow() - timedelta(days=1)),
        "evidence_due": lambda: store.evidence.due(limit=8),
        "intake": lambda: _intake(store),
    }


def _page(store: Store, wanted: ReportFilter) -> None:
    store.reports.find(wanted, limit=25)
    store.reports.count(wanted)


def _claim(store: Store) -> None:
    for claim in store.reports.claim(owner="bench", limit=4, lease_s=60):
        store.reports.retry(claim, at=utcnow(), reason="measured", counted=False)


def _intake(store: Store) -> None:
    batch = [mistake(next(_NUMBERS)) for _ in range(BATCH)]
    store.reports.add([(one, Source(channel="http", principal="backend-1")) for one in batch])
