"""Training runs: one active at a time, each owning one adapter generation, its items, measured answers and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.exc import IntegrityError

from connectors.messages import EventType
from daemon.errors import IllegalTransitionError, NotFoundError
from daemon.records import (
    ACTIVE_RUN_STATES,
    Adapter,
    AdapterState,
    Answer,
    Run,
    RunItem,
    RunState,
    Split,
    Trigger,
    Verdict,
    adapter_name,
    utcnow,
)
from daemon.store import schema
from daemon.store.adapters import _adapter, _live
from daemon.store.control import emit
from daemon.store.engine import transaction


class Runs:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(
        self, *, trigger: Trigger, requested_by: str, recipe: str, seed: int, alias: str, runs_dir: Path
    ) -> Run | None:
        """Open a run and its adapter generation; None when another run is active (a partial unique index decides)."""
        now = utcnow()
        try:
            with transaction(self._engine) as connection:
                generation = connection.execute(select(func.max(schema.adapters.c.generation))).scalar_one() + 1
                run_id = connection.execute(
                    schema.runs.insert()
                    .values(
                        state=RunState.PREPARING,
                        trigger=trigger,
                        requested_by=requested_by,
                        generation=generation,
                        base_generation=_live(connection).generation,
                        recipe=recipe,
                        seed=seed,
                        folder=str(runs_dir / f"g{generation:06d}"),
                        progress={},
                        created_at=now,
                        updated_at=now,
                    )
                    .returning(schema.runs.c.id)
                ).scalar_one()
                connection.execute(
                    schema.adapters.insert().values(
                        generation=generation,
                        name=adapter_name(alias, generation),
                        state=AdapterState.TRAINING,
                        run_id=run_id,
                        created_at=now,
                        updated_at=now,
                    )
                )
                return _run(_row(connection, run_id))
        except IntegrityError:
            return None

    def active(self) -> Run | None:
        table = schema.runs
        query = select(table).where(table.c.state.in_(ACTIVE_RUN_STATES))
        with transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _run(row)

    def get(self, run_id: int) -> Run:
        with transaction(self._engine) as connection:
            return _run(_row(connection, run_id))

    def find(self, *, limit: int = 50) -> list[Run]:
        """Newest first."""
        table = schema.runs
        with transaction(self._engine) as connection:
            return [_run(row) for row in connection.execute(select(table).order_by(table.c.id.desc()).limit(limit))]

    def progress(self, run_id: int, progress: Mapping[str, Any]) -> None:
        """Merge progress figures (shown by status and console) into the run's."""
        table = schema.runs
        with transaction(self._engine) as connection:
            merged = {**_row(connection, run_id).progress, **progress}
            connection.execute(update(table).where(table.c.id == run_id).values(progress=merged, updated_at=utcnow()))

    def prepared(self, run_id: int, items: Sequence[RunItem]) -> None:
        """The dataset is on disk: record which report is on which side, and hand over to training."""
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.PREPARING, RunState.TRAINING)
            connection.execute(
                schema.run_items.insert(),
                [
                    {
                        "run_id": run_id,
                        "report_id": item.report_id,
                        "cluster_id": item.cluster_id,
                        "role": item.role,
                    }
                    for item in items
                ],
            )

    def trained(self, run_id: int, *, path: Path, sha256: str) -> None:
        """The adapter folder is complete: hand over to evaluation."""
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.TRAINING, RunState.EVALUATING)
            _move_adapter(connection, run_id, AdapterState.CANDIDATE, path=str(path), sha256=sha256)

    def decided(self, verdict: Verdict) -> None:
        """Store the gate's verdict; an accepted run goes to promotion, a rejected one ends with its adapter."""
        reasons = "; ".join(verdict.reasons)
        with transaction(self._engine) as connection:
            connection.execute(
                schema.verdicts.insert().values(
                    run_id=verdict.run_id,
                    generation=verdict.generation,
                    accepted=verdict.accepted,
                    reasons=list(verdict.reasons),
                    figures=dict(verdict.figures),
                    decided_at=verdict.decided_at,
                )
            )
            if verdict.accepted:
                _move(connection, verdict.run_id, RunState.EVALUATING, RunState.PROMOTING)
                connection.execute(
                    update(schema.adapters)
                    .where(schema.adapters.c.run_id == verdict.run_id)
                    .values(evidence_run_id=verdict.run_id, evidence_accepted=True, updated_at=utcnow())
                )
            else:
                _move(connection, verdict.run_id, RunState.EVALUATING, RunState.REJECTED, reason=reasons)
                self._reject_adapter(connection, verdict.run_id, reasons)

    def rejected(self, run_id: int, *, reason: str) -> None:
        """Promotion refused an accepted candidate (for example, the live generation changed meanwhile)."""
        with transaction(self._engine) as connection:
            _move(connection, run_id, RunState.PROMOTING, RunState.REJECTED, reason=reason)
            self._reject_adapter(connection, run_id, reason)

    def failed(self, run_id: int, *, reason: str) -> None:
        """End the run and its adapter as failed, from any active state."""
        with transaction(self._engine) as connection:
            state = RunState(_row(connection, run_id).state)
            _move(connection, run_id, state, RunState.FAILED, reason=reason)
            _move_adapter(connection, run_id, AdapterState.FAILED, reason=reason)

    def _reject_adapter(self, connection: Connection, run_id: int, reason: str) -> None:
        row = _move_adapter(connection, run_id, AdapterState.REJECTED, reason=reason)
        emit(connection, EventType.ADAPTER_REJECTED, row.name, {"generation": row.generation, "reason": reason})

    # --- items, answers, verdicts ---

    def items(self, run_id: int) -> list[RunItem]:
        table = schema.run_items
        with transaction(self._engine) as connection:
            rows = connection.execute(select(table).where(table.c.run_id == run_id).order_by(table.c.report_id)).all()
        return [
            RunItem(run_id=row.run_id, report_id=row.report_id, cluster_id=row.cluster_id, role=Split(row.role))
            for row in rows
        ]

    def trained_on(self, report_id: str) -> list[Adapter]:
        """Forward lineage: the adapters whose training used this report."""
        items, adapters = schema.run_items, schema.adapters
        query = (
            select(adapters)
            .join(items, items.c.run_id == adapters.c.run_id)
            .where(items.c.report_id == report_id, items.c.role == Split.TRAIN)
            .order_by(adapters.c.generation)
        )
        with transaction(self._engine) as connection:
            return [_adapter(row) for row in connection.execute(query)]

    def save_answers(self, answers: Sequence[Answer]) -> None:
        """Keep measured answers; one already kept stays (an evaluation resumes after a crash)."""
        if not answers:
            return
        fields = ("run_id", "suite", "item_id", "arm", "guided", "text", "passed", "margin", "bits_per_token")
        with transaction(self._engine) as connection:
            known = {
                (row.suite, row.item_id, row.arm, row.guided)
                for row in connection.execute(
                    select(schema.answers).where(schema.answers.c.run_id == answers[0].run_id)
                )
            }
            new = [
                {field: getattr(answer, field) for field in fields}
                for answer in answers
                if (answer.suite, answer.item_id, answer.arm, answer.guided) not in known
            ]
            if new:
                connection.execute(schema.answers.insert(), new)

    def answers(self, run_id: int) -> list[Answer]:
        table = schema.answers
        query = (
            select(table)
            .where(table.c.run_id == run_id)
            .order_by(table.c.suite, table.c.item_id, table.c.arm, table.c.guided)
        )
        with transaction(self._engine) as connection:
            return [
                Answer(
                    run_id=row.run_id,
                    suite=row.suite,
                    item_id=row.item_id,
                    arm=row.arm,
                    guided=row.guided,
                    text=row.text,
                    passed=row.passed,
                    margin=row.margin,
                    bits_per_token=row.bits_per_token,
                )
                for row in connection.execute(query)
            ]

    def verdict(self, run_id: int) -> Verdict | None:
        query = select(schema.verdicts).where(schema.verdicts.c.run_id == run_id)
        with transaction(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        return Verdict(
            run_id=row.run_id,
            generation=row.generation,
            accepted=row.accepted,
            reasons=tuple(row.reasons),
            figures=row.figures,
            decided_at=row.decided_at,
        )


def _row(connection: Connection, run_id: int) -> Any:
    row = connection.execute(select(schema.runs).where(schema.runs.c.id == run_id)).one_or_none()
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


def _run(row: Any) -> Run:
    return Run(
        id=row.id,
        state=RunState(row.state),
        trigger=Trigger(row.trigger),
        requested_by=row.requested_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        generation=row.generation,
        base_generation=row.base_generation,
        recipe=row.recipe,
        seed=row.seed,
        folder=row.folder,
        reason=row.reason,
        progress=row.progress,
        finished_at=row.finished_at,
    )
