"""All Prometheus series of erratad, in pipeline order. Labels have closed sets of values.

All series of a counter exist from the start, at 0: `increase()` then sees the first event, and ratios have a
denominator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from connectors.kafka.records import Commit, LossCause
from connectors.messages import EventType, Rejection
from daemon.categories import Kind
from daemon.labels import (
    BLIND_CRITERIA,
    PLANTED_CRITERIA,
    Check,
    Criterion,
    Drop,
    Fault,
    LeftOut,
    Look,
    Lost,
    Names,
    PersonalData,
    SignalState,
    Suite,
)
from daemon.records import ACTIVE_RUN_STATES, CorrectionSource, Evidence, ReportState, RunState, Trigger

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would be a second series per counter

CLOSED_SETS: dict[MetricWrapperBase, Mapping[str, tuple[str, ...]]] = {}
"""The values of each label. A label that is missing here is bounded by the installation (stages, partitions)."""
_Metric = TypeVar("_Metric", bound=MetricWrapperBase)


def _closed(metric: _Metric, **values: Iterable[str]) -> _Metric:
    """Register the values of all labels. A counter or histogram gets all its series now."""
    sets = {label: tuple(of_label) for label, of_label in values.items()}
    CLOSED_SETS[metric] = sets
    if not isinstance(metric, Gauge):  # a gauge at 0 would claim a measurement
        for combination in product(*sets.values()):
            metric.labels(**dict(zip(sets, combination, strict=True)))
    return metric


RUN_ENDS = (RunState.PROMOTED, RunState.REJECTED, RunState.FAILED)
WATCHED_RATES = ("flagged", "errors")
ROLES = ("live", "previous", "candidate", "base")
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)

# intake
COMPLETIONS = _closed(
    Counter(
        "erratad_completions_total",
        "Messages in the short form for which the stage `completions` is done, by what became of them: the outcome of "
        "intake for the whole message, or the reason why it was given up.",
        ["result"],
    ),
    result=("stored", "duplicate", "quarantined", "kept", "gone", *Lost),
)
SIGNALS = _closed(
    Gauge(
        "erratad_signals",
        "Feedback that is no report, or none yet: short forms that wait for their completion or were given up, and "
        "thumbs up.",
        ["state"],
    ),
    state=SignalState,
)
INTAKE_MESSAGES = _closed(
    Counter("erratad_intake_messages_total", "Messages taken in, by channel and outcome.", ["channel", "outcome"]),
    channel=("kafka", "http"),
    outcome=("stored", "redelivered", "duplicate", "quarantined", "waiting", "kept", *Rejection),
)
DEAD_LETTERS = _closed(
    Counter("erratad_dead_letters_total", "Messages sent to the dead-letter topic.", ["reason"]), reason=Rejection
)
KAFKA_CONNECTED = Gauge("erratad_kafka_connected", "1 while the intake consumer reaches a broker.")
KAFKA_LAG = Gauge(
    "erratad_kafka_lag_messages", "Messages behind the end of each assigned partition.", ["topic", "partition"]
)
KAFKA_TOPICS_MISSING = Gauge("erratad_kafka_topics_missing", "Topics of reports that do not exist or cannot be read.")
KAFKA_COMMITS = _closed(
    Counter("erratad_kafka_commits_total", "Offset commits, by outcome.", ["outcome"]), outcome=Commit
)
KAFKA_POSITIONS_LOST = _closed(
    Counter(
        "erratad_kafka_positions_lost_total",
        "Partitions of the topic that are read again from their start because the position was lost, by cause.",
        ["cause"],
    ),
    cause=LossCause,
)
EVENTS_PUBLISHED = _closed(
    Counter("erratad_events_published_total", "Events acknowledged by the broker.", ["type"]), type=EventType
)
_SINKS = ("webhook", "mlflow", "otlp")
DELIVERY_ATTEMPTS = _closed(
    Counter("erratad_delivery_attempts_total", "Attempts to deliver an event, by outcome.", ["sink", "outcome"]),
    sink=_SINKS,
    outcome=("delivered", "retried", "dead"),
)
DELIVERY_WAITING = _closed(
    Gauge("erratad_delivery_events_waiting", "Events not yet delivered to this sink.", ["sink"]), sink=_SINKS
)
DELIVERY_DEAD = _closed(
    Gauge("erratad_delivery_events_dead", "Events that were given up after the last attempt.", ["sink"]), sink=_SINKS
)
EVENTS_WAITING = Gauge("erratad_events_waiting", "Events in the outbox without a broker's acknowledgement.")

# induced mistakes; a time of 0: never
INDUCED_ASKED = _closed(
    Counter("erratad_induced_asked_total", "Questions that provoke a mistake, by kind of mistake.", ["kind"]), kind=Kind
)
INDUCED_KEPT = _closed(
    Counter("erratad_induced_kept_total", "Bad answers that became reports, by kind of mistake.", ["kind"]), kind=Kind
)
INDUCED_DROPPED = _closed(
    Counter("erratad_induced_dropped_total", "Answers that became no new report, by reason.", ["reason"]), reason=Drop
)
INDUCED_LAST_START = Gauge("erratad_induced_last_start_timestamp_seconds", "Latest start of an induction run.")
INDUCED_NEXT_RUN = Gauge("erratad_induced_next_run_timestamp_seconds", "Next cron time of the induction.")

# queue and reflection
REPORTS = _closed(Gauge("erratad_reports", "Reports by state.", ["state"]), state=ReportState)
REPORTS_ARCHIVED = Gauge("erratad_reports_archived", "Reports in the files of the archive (storage.archive).")
ARCHIVE_LAST_FILE = Gauge("erratad_archive_last_file_timestamp_seconds", "Time of the archive's latest file; 0: none.")
ARCHIVE_FAILING = Gauge("erratad_archive_failing", "1 while the latest attempt to archive reports failed.")
ARCHIVE_FAILURES = Counter("erratad_archive_failures_total", "Failed attempts to move reports into the archive.")
LAST_REPORT = Gauge("erratad_last_report_timestamp_seconds", "Time of the latest report not induced; 0: never.")
REPORTS_EXPECTED = Gauge(
    "erratad_reports_expected_within_seconds",
    "An alert fires after this time without a report (intake.expect_report_within_h); 0: never.",
)
REPORTS_NAMING = _closed(
    Gauge("erratad_reports_last_day", "Reports of the last 24 hours, by what their field `model` names.", ["names"]),
    names=Names,
)
OLDEST_QUEUED = Gauge("erratad_oldest_queued_report_age_seconds", "Age of the oldest report that waits for analysis.")
REFLECTIONS = _closed(
    Counter("erratad_reflections_total", "Attempts at an analysis, by outcome.", ["outcome"]),
    outcome=("lesson", "template", "guessed", "renewed", "kept", "retry", "buried", "returned", "late"),
)
ANALYSES_REJECTED = _closed(
    Counter("erratad_analyses_rejected_total", "Analyses that failed a check.", ["check"]), check=Check
)
SET_ASIDE = _closed(
    Counter(
        "erratad_set_aside_total",
        "Corrections, checks and analyses that are not used because of their content, by origin and fault.",
        ["source", "fault"],
    ),
    source=CorrectionSource,
    fault=Fault,
)
REDACTED = _closed(
    Counter("erratad_redacted_total", "Values in reports that were redacted at intake, by kind.", ["kind"]),
    kind=PersonalData,
)
REFLECTION_SECONDS = Histogram("erratad_reflection_duration_seconds", "One attempt at an analysis.", buckets=_SECONDS)
LESSONS = _closed(
    Counter("erratad_lessons_total", "Lessons stored, by analyst and correction's source.", ["analyst", "correction"]),
    analyst=("self", "endpoint", "template"),
    correction=("none", *CorrectionSource),
)
LESSONS_BY_KIND = _closed(
    Counter("erratad_lessons_by_kind_total", "Lessons stored, by kind of mistake of the report's category.", ["kind"]),
    kind=Kind,
)
NEW_LESSONS = Gauge("erratad_new_lessons", "Lessons since the start of the last run that did not fail, at most 10,000.")

REPORT_EVIDENCE = _closed(
    Gauge(
        "erratad_report_evidence",
        "Reports that are queued, analysed or lessons, by what is known about whether the model gave the answer.",
        ["evidence"],
    ),
    evidence=Evidence,
)
EVIDENCE = _closed(
    Counter(
        "erratad_evidence_total",
        "Reports for which the stage `evidence` looked whether the model gave the flagged answer, by result.",
        ["result"],
    ),
    result=Look,
)

# training
RUNS = _closed(Counter("erratad_runs_total", "Runs ended, by outcome.", ["outcome"]), outcome=RUN_ENDS)
RUN_LAST_END = _closed(
    Gauge("erratad_run_last_end_timestamp_seconds", "Time of the latest end of a run with this outcome.", ["outcome"]),
    outcome=RUN_ENDS,
)
RUNS_IN_A_ROW = _closed(
    Gauge("erratad_runs_ended_in_a_row", "Number of latest runs in a row with this outcome.", ["outcome"]),
    outcome=RUN_ENDS,
)
RUN_ACTIVE = _closed(
    Gauge("erratad_run_active", "1 for the state of the active run.", ["state"]), state=ACTIVE_RUN_STATES
)
RUN_STAGE_SECONDS = _closed(
    Histogram("erratad_run_stage_duration_seconds", "Duration of one stage of a run.", ["stage"], buckets=_SECONDS),
    stage=("dataset", "finetune", "evaluation"),
)
DATASET_EXAMPLES = Gauge("erratad_dataset_examples", "Examples in the latest dataset, by kind.", ["kind"])
DATASET_LEFT_OUT = _closed(
    Gauge("erratad_dataset_left_out", "Lessons left out of the latest dataset, by reason.", ["reason"]), reason=LeftOut
)
DATASET_LEFT_OUT_RATIO = Gauge(
    "erratad_dataset_left_out_ratio",
    "Share of the latest run's lessons left out for a reason in their conversation: refused, too long, or empty.",
)
TRAINING_LOSS = Gauge("erratad_training_loss", "Loss of the latest training step (nats per completion token).")
TRAINING_KL = Gauge(
    "erratad_training_kl_nats",
    "KL divergence of the trained from the base model on lessons' prompts, measured last (nats per token).",
)
TRAINING_ENTROPY = Gauge(
    "erratad_training_entropy_nats",
    "Entropy of the next token on lessons' prompts, measured last; a collapsed model has nearly none.",
)
TEACHER_FLIP_RATIO = _closed(
    Gauge(
        "erratad_teacher_flip_ratio",
        "Share of the latest run's lessons where the model answers well under a teacher's prompt, by kind of mistake.",
        ["kind"],
    ),
    kind=Kind,
)
HINDSIGHT_ADVANTAGE = Gauge(
    "erratad_hindsight_advantage_nats",
    "What complaints take from the flagged answers of the latest training with them (nats per token, mean).",
)
TRAINING_STEPS = Counter("erratad_training_steps_total", "Optimiser steps made.")
TRAINING_TOKENS = Counter("erratad_training_tokens_total", "Tokens trained on (prompt and completion).")
TRAINING_SPEED = Gauge("erratad_training_tokens_per_second", "Tokens trained on per second by the latest training.")
TRAINING_MEMORY = Gauge("erratad_training_resident_memory_bytes", "Memory of the training process; 0 without one.")
TRAINING_PROGRESS = Gauge("erratad_training_progress_ratio", "Share of the active training done.")

# evaluation and gate
EVALUATION_SCORE = _closed(
    Gauge(
        "erratad_evaluation_score",
        "Latest score per suite, arm and guidance: share of items passed; suite drift: bits per token.",
        ["suite", "arm", "guided"],
    ),
    suite=[suite for suite in Suite if suite is not Suite.TRIGGERS],
    arm=("candidate", "live"),
    guided=("true", "false"),
)
GATE_STRENGTH = Gauge(
    "erratad_gate_strength_ratio", "Strength of the candidate decided last: served alpha over trained alpha."
)
GATE_KL = Gauge(
    "erratad_gate_kl_nats",
    "KL divergence of the candidate decided last from the base model on lessons' prompts (nats per token).",
)
ANSWERS_DISTINCT = _closed(
    Gauge(
        "erratad_answers_distinct_ratio",
        "Latest evaluation: different pairs of words among all pairs in an arm's guided answers to tasks.",
        ["arm"],
    ),
    arm=("candidate", "live"),
)
ANSWERS_OVERLAP = _closed(
    Gauge(
        "erratad_answers_overlap_ratio",
        "Latest evaluation: sequences of four words in an arm's guided answers that other items' answers have, too.",
        ["arm"],
    ),
    arm=("candidate", "live"),
)
GATE_VERDICTS = _closed(
    Counter("erratad_gate_verdicts_total", "Verdicts of the gate.", ["verdict"]), verdict=("accepted", "rejected")
)
GATE_REASONS = _closed(
    Counter("erratad_gate_rejections_total", "Failed criteria of rejected candidates.", ["criterion"]),
    criterion=Criterion,
)
GATE_BLIND = _closed(
    Gauge("erratad_gate_blind", "1 if the latest verdict says so: too little was measured.", ["criterion"]),
    criterion=BLIND_CRITERIA,
)
GATE_PLANTED = _closed(
    Gauge("erratad_gate_planted", "1 if the latest verdict says so: signs of planted reports.", ["criterion"]),
    criterion=PLANTED_CRITERIA,
)

# serving and promotion
LIVE_GENERATION = Gauge("erratad_live_generation", "The live generation (0: the base model).")
LIVE_ADAPTER = Info("erratad_live_adapter", "Name and run of the live adapter.")
LAST_PROMOTION = Gauge("erratad_last_promotion_timestamp_seconds", "Time of the latest promotion.")
SWAPS = _closed(
    Counter("erratad_swaps_total", "Changes of the live generation, by kind and outcome.", ["kind", "outcome"]),
    kind=("promote", "rollback"),
    outcome=("done", "retried", "rejected", "failed", "refused"),
)
SWAP_SECONDS = Histogram(
    "erratad_swap_duration_seconds", "Duration of a swap, from the first load to the last flip.", buckets=_SECONDS
)
SERVERS = _closed(
    Gauge(
        "erratad_vllm_servers",
        "vLLM servers: serving the live generation, behind it, or not ready. Only the leading daemon checks.",
        ["state"],
    ),
    state=("serving", "behind", "not_ready"),
)
CHAT_SERVERS = _closed(
    Gauge(
        "erratad_chat_servers",
        "Ready vLLM servers by the self-test: reading conversations as the trainer does, differently, or untested.",
        ["state"],
    ),
    state=("same", "different", "untested"),
)
SERVER_RESTARTS = Counter("erratad_vllm_restarts_total", "Restarts of the managed vLLM server.")
RECONCILE_REPAIRS = Counter("erratad_reconcile_repairs_total", "Servers brought back to the live generation.")

# traffic and feedback per generation; a role without a generation has no gauges. The counters grow, from the daemon's
# start, with the generation that has the role at the time; every daemon counts all requests: max, not sum
GENERATION_REQUESTS = _closed(
    Counter("erratad_generation_requests_total", "Requests answered by the generation with this role.", ["role"]),
    role=ROLES,
)
GENERATION_ERRORS = _closed(
    Counter("erratad_generation_errors_total", "Failed requests to the generation with this role.", ["role"]),
    role=ROLES,
)
GENERATION_LIFETIME_REQUESTS = _closed(
    Gauge(
        "erratad_generation_lifetime_requests",
        "Requests that the generation with this role has answered since it was made, in any role.",
        ["role"],
    ),
    role=ROLES,
)
GENERATION_FLAGGED_RATIO = _closed(
    Gauge(
        "erratad_generation_flagged_ratio",
        "Reports per request that the generation with this role has answered since it was made, in any role.",
        ["role"],
    ),
    role=ROLES,
)
GUIDANCE_REFUSALS = Counter(
    "erratad_guidance_refusals_total",
    "Requests under the alias that vLLM refused (4xx) and would have accepted without the guidance.",
)
WATCH_P_VALUE = _closed(
    Gauge(
        "erratad_watch_p_value",
        "Anytime-valid p-value: is the live generation's rate higher than the previous one's? Only during the watch.",
        ["rate"],
    ),
    rate=WATCHED_RATES,
)
WATCH_BLIND = Gauge(
    "erratad_watch_blind",
    "1 while the watch runs and too few flags can count for it to see a rise of the flagged rate.",
)
AUTOMATIC_ROLLBACKS = _closed(
    Counter("erratad_automatic_rollbacks_total", "Rollbacks requested by the watch, by the rate that rose.", ["rate"]),
    rate=WATCHED_RATES,
)

# schedule and the process; a time of 0: never
SCHEDULE_NEXT_RUN = Gauge("erratad_schedule_next_run_timestamp_seconds", "Next cron time.")
APPROVAL_WAITS = Gauge(
    "erratad_approval_waits_seconds",
    "Time for which an accepted candidate waits for a person's approval (rollout.approval); 0: none does.",
)
SCHEDULE_LAST_START = Gauge("erratad_schedule_last_start_timestamp_seconds", "Time of the latest start of a run.")
SCHEDULE_MIN_LESSONS = _closed(
    Gauge(
        "erratad_schedule_min_lessons", "New lessons needed for an automatic start of a run, by trigger.", ["trigger"]
    ),
    trigger=(Trigger.CRON, Trigger.THRESHOLD),
)
SCHEDULE_DECISIONS = _closed(
    Counter("erratad_schedule_decisions_total", "Chances to start a run, by decision.", ["decision"]),
    decision=("started", "blackout", "too_few_lessons"),
)
STAGE_LAST_STEP = Gauge("erratad_stage_last_step_timestamp_seconds", "Time of a stage's latest step.", ["stage"])
STAGE_PAUSED = Gauge("erratad_stage_paused", "1 while a stage is paused.", ["stage"])
ASKING_LIMIT = Gauge("erratad_asking_limit", "Questions of all stages that may be in flight at the model servers.")
DATA_DIR_FREE = Gauge("erratad_data_dir_free_bytes", "Free space of data_dir's file system.")
DATA_DIR_SIZE = Gauge("erratad_data_dir_size_bytes", "Size of data_dir's file system.")
STORE_ERRORS = Counter("erratad_store_errors_total", "Steps that failed because the database was unreachable.")
LEADER = Gauge("erratad_leader", "1 while this daemon leads schedule, training and promotion.")
BUILD = Info("erratad_build", "Version of erratad.")
