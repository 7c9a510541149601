"""The operations whose cost is measured, as the daemon, the console and the command line call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from fastapi.testclient import TestClient
from sqlalchemy import select, update

from daemon.config import Config
from daemon.dataset.clusters import assign
from daemon.operations.gauges import GaugesStage
from daemon.operations.status import status
from daemon.records import ReportState, Source, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store
from daemon.store.engine import transaction
from daemon.store.search_index import report_texts
from daemon.text.similarity import Words
from daemon.trust.policy import Policy
from tests.fixtures.history import mistake
from tests.fixtures.life import life

Operation = Callable[[], object]
BATCH = 200
PAGES = ("/", "/reports", "/review", "/adapters", "/runs", "/trends", "/feedback", "/audit")
_NUMBERS = itertools.count(10_000_000)


def operations(store: Store, config: Config, client: TestClient, folder: Path) -> Mapping[str, Operation]:
    """By name. Those that change the store leave it nearly as it was. `client`: of the console."""
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
        "search_of_one_report": lambda: _page(store, ReportFilter(search="filled-777")),
        "search_of_a_common_word": lambda: _page(store, ReportFilter(search="capital")),
        "lessons": lambda: store.reports.lessons(limit=50),
        "previous_generation": store.adapters.previous,
        "reviews": lambda: store.reviews.analyses(limit=50),
        "reviews_set_aside": lambda: store.reviews.set_aside(limit=50),
        "new_lessons": lambda: store.reports.count_new_lessons(enough),
        "is_trainable": store.reports.has_trainable,
        "reviews_waiting": store.reviews.waiting,
        "tally": lambda: store.traffic.tally(3),
        "tally_of_a_day": lambda: store.traffic.tally(3, since=utcnow() - timedelta(days=1)),
        "evidence_due": lambda: store.evidence.due(limit=8),
        "intake": lambda: _intake(store),
        "index_of_searches": lambda: _indexed(store),
        "clusters_of_known_reports": lambda: _assigned(store),
        **{f"console{path}": partial(_get, client, path) for path in PAGES},
    }


def _page(store: Store, wanted: ReportFilter) -> None:
    store.reports.find(wanted, limit=25)
    store.reports.count(wanted)


def _get(client: TestClient, path: str) -> None:
    client.get(path).raise_for_status()


def _indexed(store: Store) -> None:
    """Intake of the reports is the operation before; here the index takes as many texts again."""
    with transaction(store.engine) as connection:
        some = select(report_texts.c.number).order_by(report_texts.c.number.desc()).limit(BATCH).scalar_subquery()
        connection.execute(update(report_texts).where(report_texts.c.number.in_(some)).values(indexed_at=None))
    store.search_index.fill()


def _assigned(store: Store) -> None:
    """Of a run's candidates that have their clusters already."""
    reports = store.reports.find(ReportFilter(state=ReportState.LESSON), limit=BATCH)
    assign(store.clusters, reports, vectorizer=Words(), similarity=0.9, holdout_fraction=0.2, key=b"bench")


def _claim(store: Store) -> None:
    for claim in store.reports.claim(owner="bench", limit=4, lease_s=60):
        store.reports.retry(claim, at=utcnow(), reason="measured", counted=False)


def _intake(store: Store) -> None:
    batch = [mistake(next(_NUMBERS)) for _ in range(BATCH)]
    store.reports.add([(one, Source(channel="http", principal="backend-1")) for one in batch])
