"""Kept counts of reports are those of a plain count, and what grows with the store is found by an index."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import TypeAlias

import pytest
from sqlalchemy import func, select, text, update

from daemon.config.trust import TrustConfig
from daemon.labels import Grade
from daemon.records import INDUCED, TRUSTED_IMPORT, Evidence, ReportState, Source, utcnow
from daemon.report_filter import ReportFilter
from daemon.store import Store, schema
from daemon.store.counts import FOLD_FROM, KEPT_DAYS, flag_days, report_counts
from daemon.store.engine import transaction
from daemon.store.evidence import LOOKED_FOR
from daemon.store.traffic import on_real_traffic
from daemon.store.trends import DayCount
from daemon.trust.policy import Models, Policy
from tests.fixtures.config import flagged
from tests.fixtures.plans import plans
from tests.fixtures.stores import force, learn, url_of

STATES = [ReportState.REFLECTING, ReportState.LESSON, ReportState.RESOLVED, ReportState.RECURRING]


Counted: TypeAlias = tuple[dict[ReportState, int], dict[Evidence, int], int, list[DayCount]]


def counted(store: Store) -> Counted:
    of_days = store.trends.flagged(since=date.min)
    return store.reports.counts(), store.evidence.counts(), store.traffic.tally(0).flagged, of_days


def plainly(store: Store) -> Counted:
    table = schema.reports
    with store.engine.connect() as connection:
        states = Counter(connection.execute(select(table.c.state)).scalars())
        looked_for = select(table.c.evidence).where(table.c.state.in_(LOOKED_FOR))
        evidence = Counter(connection.execute(looked_for).scalars())
        base = store.adapters.live().name
        flags = select(table.c.received_at).where(table.c.model == base, *on_real_traffic())
        days = Counter(at.date() for at in connection.execute(flags).scalars())
    of_days = [DayCount(day=day, count=float(days[day]), generation=0) for day in sorted(days)]
    return {one: states[one] for one in ReportState}, {one: evidence[one] for one in Evidence}, days.total(), of_days


def changed(store: Store, count: int, *, seed: int = 0) -> None:
    """Reports of several senders and models come, change and go."""
    draw = random.Random(seed)
    base = store.adapters.live().name
    models, principals = [base, "another-model"], ["web", INDUCED]
    for number in range(count):
        one = flagged(id=f"counted-{seed}-{number}", model=draw.choice(models), response=f"Answer {number % 7}.")
        store.reports.add([(one, Source(channel="test", principal=draw.choice(principals)))])
        report = store.reports.find(limit=1)[0]
        force(
            store,
            "UPDATE reports SET evidence = :evidence WHERE id = :id",
            id=report.id,
            evidence=draw.choice([*Evidence]).value,
        )
        if report.state is ReportState.QUEUED:
            for state in STATES[: draw.randrange(len(STATES) + 1)]:
                force(
                    store,
                    "UPDATE reports SET state = :state, lease_until = :until WHERE id = :id",
                    id=report.id,
                    state=state.value,
                    until=utcnow() + timedelta(hours=1),
                )
    table = schema.reports
    with transaction(store.engine) as connection:
        for place, report_id in enumerate(connection.execute(select(table.c.id).order_by(table.c.id)).scalars().all()):
            earlier = update(table).values(received_at=utcnow() - timedelta(days=place % 3))
            connection.execute(earlier.where(table.c.id == report_id))
    force(store, "DELETE FROM reports WHERE sent_id LIKE '%-3'")
    store.reports.erase(store.reports.find(limit=1)[0].id, actor="op", reason="asked")


def test_the_counts_are_those_of_all_reports_before_and_after_they_are_added_up(store: Store) -> None:
    changed(store, 30)
    assert counted(store) == plainly(store)
    assert sum(counted(store)[0].values()) > 20
    assert len(counted(store)[3]) > 1
    store.counts.fold()
    assert counted(store) == plainly(store)


def test_flagged_answers_are_added_up_by_day_and_forgotten_when_no_page_shows_them(store: Store) -> None:
    today = utcnow().date()
    days = [today, today - timedelta(days=1), today - timedelta(days=KEPT_DAYS + 1)]
    with transaction(store.engine) as connection:
        rows = [{"day": day, "model": "base-g000000", "change": change} for day in days for change in (2, -1)]
        connection.execute(flag_days.insert(), rows * FOLD_FROM)
    store.counts.fold()
    with store.engine.connect() as connection:
        found = connection.execute(select(flag_days.c.day, flag_days.c.change)).all()
    assert sorted((row.day, row.change) for row in found) == [(days[1], FOLD_FROM), (days[0], FOLD_FROM)]


def test_many_changes_become_few_rows_and_nothing_is_lost_while_others_write(
    store: Store, open_stores: Callable[[str], Store]
) -> None:
    with transaction(store.engine) as connection:
        same = {"state": ReportState.LESSON, "evidence": Evidence.CLAIMED, "model": "m", "induced": False}
        rows = [{**same, "change": change} for change in (2, -1)] * FOLD_FROM
        connection.execute(report_counts.insert(), rows)
    others = [open_stores(url_of(store)) for _ in range(2)]
    threads = [threading.Thread(target=other.counts.fold) for other in others]
    threads.append(threading.Thread(target=changed, args=(store, 12)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.counts.fold()
    kept = plainly(store)[0]
    assert store.reports.counts() == {**kept, ReportState.LESSON: kept[ReportState.LESSON] + FOLD_FROM}
    with store.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(report_counts)).scalar_one() <= FOLD_FROM


def test_a_count_without_a_kept_number_ends_at_its_limit(store: Store) -> None:
    enough = Policy(TrustConfig()).enough(Grade.CLAIMED)
    for number in range(4):
        store.reports.add([(flagged(id=f"new-{number}", response=f"Answer {number}."), Source(channel="test"))])
    with transaction(store.engine) as connection:
        connection.execute(text("UPDATE reports SET state = 'reflecting', lease_until = received_at"))
        connection.execute(text("UPDATE reports SET state = 'lesson'"))
        ids = connection.execute(select(schema.reports.c.id)).scalars().all()
        values = {"analysis": "It is wrong.", "analyst": "self", "template": "v1", "created_at": utcnow()}
        connection.execute(schema.lessons.insert(), [{"report_id": one, **values} for one in ids])
    assert store.reports.count_new_lessons(enough) == 4
    assert store.reports.count_new_lessons(enough, at_most=3) == 3
    assert store.reports.has_trainable()


@pytest.mark.parametrize(
    ("operation", "index"),
    [
        (lambda store: store.reports.claim(owner="a", limit=4, lease_s=60), "ix_reports_queue"),
        (lambda store: store.reports.categories(), "ix_reports_category"),
        (lambda store: store.reports.find(ReportFilter(category="style"), limit=25), "ix_reports_category"),
        (lambda store: store.reports.find(ReportFilter(principal="test"), limit=25), "ix_reports_of_principal"),
        (lambda store: store.evidence.waiting(), "ix_reports_without_evidence"),
        (lambda store: store.evidence.due(limit=2), "ix_reports_without_evidence"),
        (lambda store: store.reviews.waiting(), "ix_reports_state"),
        (lambda store: store.traffic.tally(0, since=utcnow() - timedelta(days=1)), "ix_reports_model"),
        (
            lambda store: store.reports.add([(flagged(id=f"b-{n}"), Source(channel="t")) for n in range(20)]),
            "uq_reports_sent",
        ),
    ],
)
def test_an_index_finds_the_reports(sqlite_store: Store, operation: Callable[[Store], object], index: str) -> None:
    sqlite_store.reports.add([(flagged(id="one", category="style"), Source(channel="test"))])
    with plans(sqlite_store) as steps:
        operation(sqlite_store)
    assert any(index in step for step in steps), steps
    assert not [step for step in steps if "SCAN reports" in step and "INDEX" not in step]


BY_INDEX: dict[str, Callable[[Store], object]] = {
    "ix_reports_state": lambda store: store.reviews.analyses(limit=20),
    "ix_reports_state|ix_reports_trainable": lambda store: store.reports.lessons(limit=20),
    "sqlite_autoindex_run_items_1|run_items_pkey|ix_run_items_report": lambda store: store.adapters.previous(),
    "ix_report_texts_waiting": lambda store: store.search_index.fill(),
    "INTEGER PRIMARY KEY|clusters_pkey|uq_clusters_id_split": lambda store: store.clusters.some([1]),
    "audit": lambda store: store.audit.last(),
}


def test_no_table_that_grows_is_read_whole(store: Store) -> None:
    learn(store, flagged(id="one"))
    whole = re.compile(r"(SCAN|Seq Scan on) (reports|lessons|run_items|report_texts|clusters)(?! USING)")
    for index, operation in BY_INDEX.items():
        with plans(store) as steps:
            operation(store)
        assert re.search(index, "\n".join(steps)), steps
        assert not [step for step in steps if whole.search(step)], steps


def test_intake_does_not_look_through_all_reports_in_play(sqlite_store: Store) -> None:
    with plans(sqlite_store) as steps:
        sqlite_store.reports.add([(flagged(id=f"b-{n}"), Source(channel="test")) for n in range(20)])
    assert not [step for step in steps if "ix_reports_state" in step]


def test_lessons_about_other_models_do_not_count_by_a_source_s_word(store: Store) -> None:
    models = Models(alias="aligned", base="base")
    enough = Policy(TrustConfig(), trusted=["web"], models=models).enough(Grade.REPRODUCED)
    for name in ("aligned", "base", "aligned-g000003", "aligned_g", "gpt-9"):
        learn(store, flagged(id=f"about-{name}", model=name, response=f"Answer of {name}."), principal="web")
    learn(store, flagged(id="own", model="gpt-9", response="Another answer."), principal=TRUSTED_IMPORT)
    assert store.reports.count_new_lessons(enough) == 4
