"""A store with any number of reports: real rows of a small store, repeated with ids, senders and times of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, text, update

from daemon.records import Evidence, ReportState, RunState, Split, Trigger, utcnow
from daemon.store import Store, schema
from daemon.store.engine import transaction
from tests.fixtures.history import fill, mistake

SHARES: dict[ReportState, float] = {
    ReportState.QUEUED: 0.02,
    ReportState.LESSON: 0.40,
    ReportState.RESOLVED: 0.30,
    ReportState.NOT_REPRODUCED: 0.05,
    ReportState.DUPLICATE: 0.15,
    ReportState.BURIED: 0.05,
    ReportState.QUARANTINED: 0.03,
}
WITH_LESSON = {ReportState.LESSON, ReportState.RESOLVED, ReportState.NOT_REPRODUCED}
MODELS = ("aligned-g000000", "aligned-g000001", "aligned-g000003")
DAYS = 365
CHUNK = 5_000
FIRST_GENERATION = 1_000_000
"""Of the past runs: the store's own generations stay below."""


def filled(store: Store, reports: int, *, seed: int = 1, shares: Mapping[ReportState, float] = SHARES) -> None:
    """Fill an empty store with generations, runs, and this many reports spread over a year."""
    fill(store)
    draw = random.Random(seed)
    states = draw.choices([*shares], weights=[*shares.values()], k=reports)
    for start in range(0, reports, CHUNK):
        numbers = range(start, min(start + CHUNK, reports))
        rows = [_report(number, states[number], reports, draw) for number in numbers]
        with transaction(store.engine) as connection, _any_first_state(connection):
            connection.execute(insert(schema.reports), rows)
            if learned := [_lesson(row) for row in rows if row["state"] in WITH_LESSON]:
                connection.execute(insert(schema.lessons), learned)
            if trained := [row for row in rows if row["state"] is ReportState.LESSON]:
                _past_run(connection, start // CHUNK, trained)
    while store.search_index.fill():
        pass
    if store.engine.dialect.name == "postgresql":  # its own daemon does that sooner or later; nobody does for SQLite
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


@contextmanager
def _any_first_state(connection: Connection) -> Iterator[None]:
    """The database itself refuses new reports, and runs, in most states."""
    states = [("reports", state) for state in SHARES] + [("runs", RunState.REJECTED)]
    table = schema.transitions
    first = connection.execute(select(table.c.machine, table.c.new).where(table.c.old == "")).all()
    present = {(row.machine, row.new) for row in first}
    added = [
        {"machine": machine, "old": "", "new": new.value} for machine, new in states if (machine, new) not in present
    ]
    connection.execute(insert(table), added)
    yield
    for row in added:
        connection.execute(table.delete().where(*(table.c[name] == value for name, value in row.items())))


def _report(number: int, state: ReportState, reports: int, draw: random.Random) -> dict[str, Any]:
    message = mistake(number)
    at = utcnow() - timedelta(days=DAYS) * (1 - number / reports)
    name = f"filled-{number}"
    looked_for = state not in {ReportState.QUEUED, ReportState.QUARANTINED}
    is_copy = state is ReportState.DUPLICATE
    first = number - number % 10 if number % 10 else 0
    return {
        "id": name,
        "sent_id": name,
        "state": state,
        "fingerprint": f"{number:064x}",
        "content_key": f"{first if is_copy else number:064x}",
        "category": f"{message.category}-{number % 8}",
        "principal": f"backend-{number % 5}",
        "reporter": f"user-{draw.randrange(max(reports // 50, 20))}",
        "tenant": None if number % 3 else f"tenant-{number % 7}",
        "model": MODELS[draw.randrange(len(MODELS))],
        "flagged": {**message.model_dump(mode="json", exclude_none=True), "id": name},
        "channel": "http",
        "received_at": at,
        "updated_at": at,
        "evidence": Evidence.REPRODUCED if looked_for else Evidence.CLAIMED,
        "evidence_at": at + timedelta(minutes=1) if looked_for else None,
        "duplicate_of": f"filled-{first}" if is_copy else None,
    }


def _past_run(connection: Connection, number: int, trained: list[dict[str, Any]]) -> None:
    """A run that ended without a promotion and trained on these reports, each in a cluster of its own."""
    at = utcnow() - timedelta(days=DAYS)
    ids = [row["id"] for row in trained]
    run = {
        "state": RunState.REJECTED,
        "trigger": Trigger.CRON,
        "requested_by": "schedule",
        "generation": FIRST_GENERATION + number,
        "base_generation": 0,
        "recipe": "mistake-analysis",
        "seed": 1,
        "folder": f"/var/lib/erratad/runs/filled-{number}",
        "progress": {},
        **dict.fromkeys(("created_at", "updated_at", "finished_at"), at),
    }
    run_id = connection.execute(insert(schema.runs).values(**run).returning(schema.runs.c.id)).scalar_one()
    clusters, reports = schema.clusters, schema.reports
    led = [
        {"category": "wrong-fact", "leader_text": f"Case {one}?", "leader_id": one, "split": Split.TRAIN} for one in ids
    ]
    connection.execute(insert(clusters), led)
    made = connection.execute(select(clusters.c.id, clusters.c.leader_id).where(clusters.c.leader_id.in_(ids))).all()
    joined = update(reports).where(reports.c.id == bindparam("of")).values(cluster_id=bindparam("cluster"))
    connection.execute(joined, [{"of": row.leader_id, "cluster": row.id} for row in made])
    items = [{"run_id": run_id, "report_id": row.leader_id, "cluster_id": row.id, "role": Split.TRAIN} for row in made]
    connection.execute(insert(schema.run_items), items)


def _lesson(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "report_id": row["id"],
        "analysis": "The answer is confident and wrong: it names something near to what was asked, not what was asked.",
        "analyst": "self:aligned-g000001",
        "template": "v1/analysis-guided",
        "correction": "It is another one.",
        "correction_source": "guided",
        "created_at": row["received_at"] + timedelta(minutes=2),
    }
