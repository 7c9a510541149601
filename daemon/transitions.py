"""The legal changes of state. A trigger in the database, made from these tables, refuses all others."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from daemon.records import AdapterState, ReportState, RunState

REPORT_TRANSITIONS: Mapping[ReportState, frozenset[ReportState]] = {
    ReportState.QUEUED: frozenset(
        {ReportState.REFLECTING, ReportState.DUPLICATE, ReportState.QUARANTINED, ReportState.ERASED}
    ),
    ReportState.REFLECTING: frozenset(
        {ReportState.LESSON, ReportState.QUEUED, ReportState.BURIED, ReportState.QUARANTINED, ReportState.ERASED}
    ),
    ReportState.LESSON: frozenset(
        {
            ReportState.RESOLVED,
            ReportState.RECURRING,
            ReportState.IMPROVED,
            ReportState.NOT_REPRODUCED,
            ReportState.QUEUED,
            ReportState.DUPLICATE,
            ReportState.QUARANTINED,
            ReportState.BURIED,
            ReportState.ERASED,
        }
    ),
    ReportState.RESOLVED: frozenset({ReportState.RECURRING, ReportState.IMPROVED, ReportState.ERASED}),
    ReportState.RECURRING: frozenset(
        {
            ReportState.RESOLVED,
            ReportState.IMPROVED,
            ReportState.NOT_REPRODUCED,
            ReportState.QUEUED,
            ReportState.DUPLICATE,
            ReportState.QUARANTINED,
            ReportState.BURIED,
            ReportState.ERASED,
        }
    ),
    ReportState.IMPROVED: frozenset(
        {
            ReportState.RESOLVED,
            ReportState.RECURRING,
            ReportState.NOT_REPRODUCED,
            ReportState.QUEUED,
            ReportState.DUPLICATE,
            ReportState.QUARANTINED,
            ReportState.BURIED,
            ReportState.ERASED,
        }
    ),
    # lesson: reported again, or the generation that did right is no longer live
    ReportState.NOT_REPRODUCED: frozenset(
        {ReportState.LESSON, ReportState.QUEUED, ReportState.QUARANTINED, ReportState.BURIED, ReportState.ERASED}
    ),
    ReportState.DUPLICATE: frozenset({ReportState.QUEUED, ReportState.ERASED}),
    ReportState.QUARANTINED: frozenset({ReportState.QUEUED, ReportState.BURIED, ReportState.ERASED}),
    # all but queued and erased: a person undoes a rejection
    ReportState.BURIED: frozenset(
        {
            ReportState.QUEUED,
            ReportState.QUARANTINED,
            ReportState.LESSON,
            ReportState.RECURRING,
            ReportState.IMPROVED,
            ReportState.NOT_REPRODUCED,
            ReportState.ERASED,
        }
    ),
    ReportState.ERASED: frozenset(),
}
ADAPTER_TRANSITIONS: Mapping[AdapterState, frozenset[AdapterState]] = {
    AdapterState.TRAINING: frozenset({AdapterState.CANDIDATE, AdapterState.FAILED}),
    AdapterState.CANDIDATE: frozenset(
        {AdapterState.SHADOW, AdapterState.CANARY, AdapterState.LIVE, AdapterState.REJECTED, AdapterState.FAILED}
    ),
    AdapterState.SHADOW: frozenset(
        {AdapterState.CANARY, AdapterState.LIVE, AdapterState.REJECTED, AdapterState.FAILED}
    ),
    AdapterState.CANARY: frozenset({AdapterState.LIVE, AdapterState.REJECTED, AdapterState.FAILED}),
    AdapterState.LIVE: frozenset({AdapterState.RETIRED, AdapterState.ROLLED_BACK}),
    AdapterState.RETIRED: frozenset({AdapterState.LIVE}),
    AdapterState.FAILED: frozenset(),
    AdapterState.REJECTED: frozenset(),
    AdapterState.ROLLED_BACK: frozenset({AdapterState.RETIRED}),  # approved again by a person
}
RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.PREPARING: frozenset({RunState.TRAINING, RunState.FAILED}),
    RunState.TRAINING: frozenset({RunState.EVALUATING, RunState.FAILED}),
    RunState.EVALUATING: frozenset({RunState.PROMOTING, RunState.REJECTED, RunState.FAILED}),
    RunState.PROMOTING: frozenset({RunState.PROMOTED, RunState.REJECTED, RunState.FAILED}),
    RunState.PROMOTED: frozenset(),
    RunState.REJECTED: frozenset(),
    RunState.FAILED: frozenset(),
}
INITIAL_STATES: Mapping[str, frozenset[StrEnum]] = {
    "reports": frozenset({ReportState.QUEUED, ReportState.DUPLICATE, ReportState.QUARANTINED}),
    # only generation 0, the base model, starts live: other generations need evidence
    "adapters": frozenset({AdapterState.TRAINING, AdapterState.LIVE}),
    "runs": frozenset({RunState.PREPARING}),
}
"""The legal states of a new row, per state machine."""
