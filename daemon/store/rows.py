"""Conversion of rows to records; the only module that knows both."""

from __future__ import annotations

from typing import Any

from connectors.messages import FlaggedResponse
from daemon.records import (
    Adapter,
    Answer,
    Cluster,
    Induction,
    Intent,
    Lesson,
    Report,
    Run,
    RunItem,
    Source,
    Verdict,
)


def report(row: Any) -> Report:
    return Report(
        id=row.id,
        state=row.state,
        flagged=FlaggedResponse.model_validate(row.flagged),
        source=Source(channel=row.channel, partition=row.kafka_partition, offset=row.kafka_offset),
        received_at=row.received_at,
        updated_at=row.updated_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        state_reason=row.state_reason,
        duplicate_of=row.duplicate_of,
        cluster_id=row.cluster_id,
        resolved_generation=row.resolved_generation,
        lease_owner=row.lease_owner,
    )


def lesson(row: Any) -> Lesson:
    return Lesson(
        report_id=row.report_id,
        analysis=row.analysis,
        analyst=row.analyst,
        template=row.template,
        correction=row.correction,
        correction_source=row.correction_source,
        created_at=row.created_at,
        reviewed_by=row.reviewed_by,
        reviewed_at=row.reviewed_at,
    )


def cluster(row: Any) -> Cluster:
    return Cluster(id=row.id, category=row.category, leader_text=row.leader_text, split=row.split)


def run(row: Any) -> Run:
    return Run(
        id=row.id,
        state=row.state,
        trigger=row.trigger,
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


def run_item(row: Any) -> RunItem:
    return RunItem(run_id=row.run_id, report_id=row.report_id, cluster_id=row.cluster_id, role=row.role)


def answer(row: Any) -> Answer:
    return Answer(
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


def verdict(row: Any) -> Verdict:
    return Verdict(
        run_id=row.run_id,
        generation=row.generation,
        accepted=row.accepted,
        reasons=tuple(row.reasons),
        figures=row.figures,
        decided_at=row.decided_at,
    )


def adapter(row: Any) -> Adapter:
    return Adapter(
        generation=row.generation,
        name=row.name,
        state=row.state,
        run_id=row.run_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        path=row.path,
        sha256=row.sha256,
        reason=row.reason,
        promoted_at=row.promoted_at,
        retired_at=row.retired_at,
        files_removed_at=row.files_removed_at,
    )


def intent(row: Any) -> Intent:
    return Intent(
        id=row.id,
        kind=row.kind,
        state=row.state,
        actor=row.actor,
        reason=row.reason,
        created_at=row.created_at,
        target_generation=row.target_generation,
        outcome=row.outcome,
    )


def induction(row: Any) -> Induction:
    return Induction(
        id=row.id,
        trigger=row.trigger,
        requested_by=row.requested_by,
        position=row.position,
        asked=row.asked,
        kept=row.kept,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        reason=row.reason,
    )
