"""Training runs: one active at a time, each owning one adapter generation, its items, measured answers and verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, func, select, union_all, update

from connectors.messages import EventType
from daemon.adapter_names import adapter_name
from daemon.errors import ErasedMeanwhileError, IllegalTransitionError, NotFoundError
from daemon.labels import LeftOut
from daemon.left_out import LeftOutBy, LeftOutReport
from daemon.records import (
    ACTIVE_RUN_STATES,
    Adapter,
    AdapterState,
    Answer,
    ReportState,
    Run,
    RunItem,
    RunState,
    Split,
    Trigger,
    Verdict,
    utcnow,
)
from daemon.retest import Retest
from daemon.store import rows, schema
from daemon.store.adapters import live_row
from daemon.store.archive_tables import archived_items
from daemon.store.audit import record_audit
from daemon.store.duplicates import batches
from daemon.store.engine import Lock, insert, reading, serialise, transaction
from daemon.store.intents import fulfil
from daemon.store.left_out import record_left_out
from daemon.store.outbox import emit
from daemon.store.retests import keep_retests
from daemon.text.quotes import ERASED

_LINEAGE = (schema.run_items, archived_items)
REPORT_SUITES = ("flagged", "holdout")
"""Suites with reports as items; items of other suites have their own ids."""


class Runs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(
        self,
        *,
        trigger: Trigger,
        requested_by: str,
        recipe: str,
        seed: int,
        alias: str,
        runs_dir: Path,
        intent_id: int | None = None,
    ) -> Run | None:
        """Open a run and its adapter generation. None if another run is active.

        Args:
            intent_id: The operator's intent that the start completes.

        Raises:
            IllegalTransitionError: That intent has ended already.
        """
        now = utcnow()
        with transaction(self._engine) as connection:
            serialise(connection, Lock.RUNS)
            if connection.execute(_ACTIVE).first() is not None:
                return None
            # under the lock: two runs never get the same generation
            generation = connection.execute(select(func.max(schema.adapters.c.generation))).scalar_one() + 1
            run_id = connection.execute(
                schema.runs.insert()
                .values(
                    state=RunState.PREPARING,
                    trigger=trigger,
                    requested_by=requested_by,
                    generation=generation,
                    base_generation=live_row(connection).generation,
                    recipe=recipe,
                    seed=seed,
                    folder=str(runs_dir / f"g{generation:06d}"),
                    progress={},
                    created_at=now,
                    updated_at=now,
                )
                .returning(schema.runs.c.id)
            ).scalar_one()
            _add_adapter(connection, generation, name=adapter_name(alias, generation), run_id=run_id, at=now)
            if intent_id is not None:
                fulfil(connection, intent_id, f"started run {run_id} for generation {generation}")
            return rows.record(Run, _row(connection, run_id))

    def active(self) -> Run | None:
        with reading(self._engine) as connection:
            row = connection.execute(_ACTIVE).one_or_none()
        return None if row is None else rows.record(Run, row)

    def get(self, run_id: int) -> Run:
        with reading(self._engine) as connection:
            return rows.record(Run, _row(connection, run_id))

    def find(self, *, limit: int = 50, offset: int = 0) -> list[Run]:
        """Newest first."""
        table = schema.runs
        with reading(self._engine) as connection:
            return [
                rows.record(Run, row)
                for row in connection.execute(select(table).order_by(table.c.id.desc()).limit(limit).offset(offset))
            ]

    def ended(self, *, before: datetime) -> list[Run]:
        """Runs that ended before a time, oldest first."""
        table = schema.runs
        query = select(table).where(table.c.finished_at < before).order_by(table.c.id)
        with reading(self._engine) as connection:
            return [rows.record(Run, row) for row in connection.execute(query)]

    def last_ends(self) -> dict[RunState, datetime]:
        """The latest end time for each state in which a run has ended."""
        table = schema.runs
        query = select(table.c.state, func.max(table.c.finished_at)).where(table.c.finished_at.is_not(None))
        with reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(table.c.state))}

    def progress(self, run_id: int, progress: Mapping[str, Any]) -> None:
        """Merge progress figures (shown by status and console) into the run's."""
        table = schema.runs
        with transaction(self._engine) as connection:
            merged = {**_row(connection, run_id, lock=True).progress, **progress}
            connection.execute(update(table).where(table.c.id == run_id).values(progress=merged, updated_at=utcnow()))

    def prepared(self, run_id: int, items: Sequence[RunItem], *, left_out: Sequence[LeftOutReport] = ()) -> None:
        """The dataset is on disk: record the split of each report and those left out, and hand over to training.

        Raises:
            ErasedMeanwhileError: A report is erased or removed. Nothing is changed; the dataset must be made again.
        """
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.PREPARING, RunState.TRAINING)
            states = _states(connection, {item.report_id for item in items})
            gone = {
                item.report_id for item in items if states.get(item.report_id, ReportState.ERASED) is ReportState.ERASED
            }
            if gone:
                raise ErasedMeanwhileError(f"{', '.join(sorted(gone))}: erased or removed after the dataset was made")
            if items:
                values = [{**asdict(item), "run_id": run_id} for item in items]
                connection.execute(schema.run_items.insert(), values)
            record_left_out(connection, left_out)

    def trained(
        self,
        run_id: int,
        *,
        path: Path,
        sha256: str,
        report_ids: Collection[str] | None = None,
        left_out: Mapping[str, LeftOut] | None = None,
    ) -> Counter[LeftOut]:
        """The adapter folder is complete: hand over to evaluation. Returns how many reports it left out, by reason.

        Args:
            left_out: Why a report was not trained on; those that are not named were not reached.
            report_ids: The reports with an example in a training step (None: all). The others leave the run: they are
                neither in the lineage nor measured as flagged.
        """
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.TRAINING, RunState.EVALUATING)
            _move_adapter(connection, run_id, AdapterState.CANDIDATE, path=str(path), sha256=sha256)
            if report_ids is None:
                return Counter()
            return _take_out_untrained(connection, run_id, report_ids, left_out or {})

    def decided(self, verdict: Verdict, *, served: Adapter | None = None, retests: Sequence[Retest] = ()) -> None:
        """Store the gate's verdict; an accepted run goes to promotion, a rejected one ends with its adapter.

        `served` has the name and the folder of the strength that was accepted; from now on they are the candidate's.
        `retests`: the reports that were asked again, of live and of the candidate.
        """
        reasons = "; ".join(verdict.reasons)
        ended = RunState.PROMOTING if verdict.accepted else RunState.REJECTED
        with transaction(self._engine) as connection:
            _move(connection, verdict.run_id, RunState.EVALUATING, ended, reason=None if verdict.accepted else reasons)
            connection.execute(schema.verdicts.insert().values(**asdict(verdict)))
            live = live_row(connection).generation
            compared = live == verdict.figures.get("live_generation", live)
            keep_retests(connection, retests, live=live if compared else None)
            if verdict.accepted:
                at_strength = {} if served is None else {"name": served.name, "path": served.path}
                connection.execute(
                    update(schema.adapters)
                    .where(schema.adapters.c.run_id == verdict.run_id)
                    .values(evidence_run_id=verdict.run_id, evidence_accepted=True, updated_at=utcnow(), **at_strength)
                )
            else:
                self._reject_adapter(connection, verdict.run_id, reasons, strengths=strengths_of(verdict))

    def rejected(self, run_id: int, *, reason: str, actor: str | None = None) -> None:
        """Reject a candidate that the gate accepted; `actor` is an operator, or the daemon itself."""
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.PROMOTING, RunState.REJECTED, reason=reason)
            name = self._reject_adapter(connection, run_id, reason)
            if actor is not None:
                record_audit(connection, actor=actor, action="rejected", subject=name, reason=reason)

    def failed(self, run_id: int, *, reason: str) -> None:
        """End the run and its adapter as failed, from any active state."""
        with transaction(self._engine) as connection:
            state: RunState = _row(connection, run_id, lock=True).state
            if state not in ACTIVE_RUN_STATES:
                raise IllegalTransitionError(f"run {run_id} is {state} already: it cannot fail any more")
            _move(connection, run_id, state, RunState.FAILED, reason=reason)
            _move_adapter(connection, run_id, AdapterState.FAILED, reason=reason)

    def _reject_adapter(
        self, connection: Connection, run_id: int, reason: str, *, strengths: Mapping[str, Any] | None = None
    ) -> str:
        """Returns the adapter's name."""
        row = _move_adapter(connection, run_id, AdapterState.REJECTED, reason=reason)
        said = {"generation": row.generation, "reason": reason, **(strengths or {})}
        emit(connection, EventType.ADAPTER_REJECTED, row.name, said)
        return str(row.name)

    # --- items, answers, verdicts ---

    def items(self, run_id: int) -> list[RunItem]:
        """Of archived reports, too."""
        both = union_all(*(select(table).where(table.c.run_id == run_id) for table in _LINEAGE))
        with reading(self._engine) as connection:
            return [rows.record(RunItem, row) for row in connection.execute(both.order_by("report_id"))]

    def trained_on(self, report_id: str) -> list[Adapter]:
        """Forward lineage: the adapters whose training used this report."""
        adapters = schema.adapters
        used = (
            select(items.c.run_id).where(items.c.report_id == report_id, items.c.role == Split.TRAIN)
            for items in _LINEAGE
        )
        query = select(adapters).where(adapters.c.run_id.in_(union_all(*used))).order_by(adapters.c.generation)
        with reading(self._engine) as connection:
            return [rows.record(Adapter, row) for row in connection.execute(query)]

    def save_answers(self, answers: Sequence[Answer]) -> None:
        """Store measured answers. Stored ones stay unchanged, because an evaluation resumes after a crash."""
        if not answers:
            return
        with transaction(self._engine) as connection:
            gone = _erased(connection, {one.item_id for one in answers if one.suite in REPORT_SUITES})
            values = [asdict(one) | ({"text": ERASED} if one.item_id in gone else {}) for one in answers]
            connection.execute(insert(connection, schema.answers).on_conflict_do_nothing(), values)

    def answers(self, run_id: int) -> list[Answer]:
        """Greedy answers and samples."""
        return self._answers(schema.answers.c.run_id == run_id)

    def answers_to(self, report_id: str) -> list[Answer]:
        """The measured answers to this report in every run, oldest run first."""
        return self._answers(and_(schema.answers.c.item_id == report_id, schema.answers.c.suite.in_(REPORT_SUITES)))

    def _answers(self, condition: ColumnElement[bool]) -> list[Answer]:
        table = schema.answers
        query = (
            select(table)
            .where(condition)
            .order_by(table.c.run_id, table.c.suite, table.c.item_id, table.c.arm, table.c.guided, table.c.sample)
        )
        with reading(self._engine) as connection:
            return [rows.record(Answer, row) for row in connection.execute(query)]

    def verdict(self, run_id: int) -> Verdict | None:
        query = select(schema.verdicts).where(schema.verdicts.c.run_id == run_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else rows.verdict(row)


def strengths_of(verdict: Verdict | None) -> dict[str, Any]:
    """What an event says of the strengths; nothing of verdicts that know none."""
    figures = {} if verdict is None else verdict.figures
    return {name: figures[name] for name in ("strength", "strengths") if name in figures}


def _erased(connection: Connection, report_ids: Collection[str]) -> set[str]:
    states = _states(connection, report_ids)
    return {report_id for report_id, state in states.items() if state == ReportState.ERASED}


def _states(connection: Connection, report_ids: Collection[str]) -> dict[str, ReportState]:
    """Of those that are reports. On PostgreSQL none can be erased before the transaction ends."""
    table = schema.reports
    found: dict[str, ReportState] = {}
    for some in batches(list(report_ids)):
        rows_of = select(table.c.id, table.c.state).where(table.c.id.in_(some)).with_for_update()
        found |= {row.id: row.state for row in connection.execute(rows_of)}
    return found


def _take_out_untrained(
    connection: Connection, run_id: int, trained: Collection[str], reasons: Mapping[str, LeftOut]
) -> Counter[LeftOut]:
    items = schema.run_items
    on_train_side = and_(items.c.run_id == run_id, items.c.role == Split.TRAIN)
    listed = connection.execute(select(items.c.report_id).where(on_train_side)).scalars()
    untrained = sorted(set(listed) - set(trained))
    for report_id in untrained:
        connection.execute(delete(items).where(items.c.run_id == run_id, items.c.report_id == report_id))
    left_out = [
        LeftOutReport(
            run_id=run_id, report_id=one, stage=LeftOutBy.FINETUNE, reason=reasons.get(one, LeftOut.NOT_REACHED)
        )
        for one in untrained
    ]
    record_left_out(connection, left_out)
    return Counter(one.reason for one in left_out)


def _add_adapter(connection: Connection, generation: int, *, name: str, run_id: int, at: datetime) -> None:
    connection.execute(
        schema.adapters.insert().values(
            generation=generation,
            name=name,
            state=AdapterState.TRAINING,
            run_id=run_id,
            created_at=at,
            updated_at=at,
        )
    )


_ACTIVE = select(schema.runs).where(schema.runs.c.state.in_(ACTIVE_RUN_STATES))


def _row(connection: Connection, run_id: int, *, lock: bool = False) -> Any:
    """The run's row. `lock`: other transactions cannot change it until this one ends."""
    query = select(schema.runs).where(schema.runs.c.id == run_id)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFoundError(f"no run {run_id}; `erratad runs` lists them")
    return row


def _move(connection: Connection, run_id: int, old: RunState, new: RunState, *, reason: str | None = None) -> None:
    table = schema.runs
    now = utcnow()
    finished = None if new in ACTIVE_RUN_STATES else now
    changed = connection.execute(
        update(table)
        .where(table.c.id == run_id, table.c.state == old)
        .values(state=new, reason=reason, updated_at=now, finished_at=finished)
    ).rowcount
    if not changed:
        raise IllegalTransitionError(f"run {run_id} is {_row(connection, run_id).state}, not {old}")


def _move_adapter(connection: Connection, run_id: int, state: AdapterState, **values: Any) -> Any:
    table = schema.adapters
    return connection.execute(
        update(table)
        .where(table.c.run_id == run_id)
        .values(state=state, updated_at=utcnow(), **values)
        .returning(table.c.generation, table.c.name)
    ).one()
